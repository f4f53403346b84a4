"""The source of classes and functions given as objects: their file, or what is taken out of a script.

A class or a function of a script or of a notebook is written to a file of its own, with the imports
and the definitions that it uses. The script itself is never run again.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn, optim

from runback.errors import ModelError
from runback.user_code import LIBRARIES

PREFIX = "own_"
FUTURE = "from __future__ import annotations"
Statement = tuple[set[str], str]  # the names that it binds, and its text
_GIVEN = {*dir(builtins), "__name__", "__file__", "__doc__"}


def reference_of(value: Any, option: str, folder: Path) -> str:
    """The text of an option that names a class or a function.

    Args:
        value: the class or function.
        option: model, loss, metrics or optimizer.
        folder: an existing folder, to which the source of a script's definition is written.

    Raises:
        ModelError: the object is of another kind, or its source cannot be had.
    """
    _require_kind(value, option)
    name = str(value.__qualname__)
    if not name.isidentifier():
        raise ModelError(
            f"option {option}: {name} is defined inside a function or a class; define it at the top of "
            "a file"
        )
    if value.__module__ != "__main__":
        return f"{_location(value, option)}:{name}"
    text = standalone_source(_scripts(name, option), name, option)
    file = f"{PREFIX}{option}.py" if option != "metrics" else f"{PREFIX}metric_{name}.py"
    (folder / file).write_text(text, encoding="utf-8")
    return f"{file}:{name}"


def _require_kind(value: Any, option: str) -> None:
    bases = {"model": (nn.Module, "nn.Module"), "optimizer": (optim.Optimizer, "optim.Optimizer")}
    if option not in bases:
        if isinstance(value, type) or not hasattr(value, "__qualname__"):
            raise ModelError(f"option {option}: {value!r} is neither a name nor a function")
        return
    base, shown = bases[option]
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ModelError(f"option {option}: {value!r} is neither a name nor a class of {shown}")


def standalone_source(scripts: Sequence[str], name: str, option: str = "model") -> str:
    """A class or a function with the imports and the top-level definitions that it uses, transitively.

    Args:
        scripts: the text of a script, or of each cell of a notebook, in order.
        name: of the class or function.
        option: the name in errors.

    Raises:
        ModelError: it, or a name that it uses, is not defined at the top of the scripts.
    """
    statements = _newest([part for text in scripts for part in _statements(text)])
    needed, todo = {name}, [name]
    while todo:
        wanted = todo.pop()
        found = [text for names, text in statements if wanted in names]
        if not found:
            raise ModelError(
                f"option {option}: the source of {name} cannot be kept: {wanted!r} is no import, "
                "class, function or constant at the top of its script; define it there, or move "
                f"{name} to a file of its own"
            )
        new = {used for text in found for used in _globals_of(text)} - needed - _GIVEN
        needed |= new
        todo += sorted(new)
    kept = [text for names, text in statements if names & needed]
    future = [FUTURE] if any(FUTURE in text for text in scripts) else []
    return "\n\n".join([*future, *kept]) + "\n"


def _location(value: Any, option: str) -> str:
    """The file of the module of a class or function, or the dotted name of one in a package."""
    module = str(value.__module__)
    file = getattr(sys.modules.get(module), "__file__", None)
    if "." in module or module in LIBRARIES:
        return module
    if not file or not file.endswith(".py"):
        raise ModelError(f"option {option}: the source of {value.__name__} cannot be found")
    return str(file)


def _scripts(name: str, option: str) -> list[str]:
    """The text of the running script, or of the cells of the running notebook."""
    main = sys.modules["__main__"]
    cells = getattr(main, "In", None)  # of IPython
    if isinstance(cells, list):
        return [str(cell) for cell in cells]
    try:
        return [inspect.getsource(main)]
    except (OSError, TypeError):
        raise ModelError(
            f"option {option}: the source of {name} cannot be found; move it to a file"
        ) from None


def _statements(text: str) -> Iterator[Statement]:
    """The names and the text of each import and definition at the top of a script."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell that did not run
        return
    for node in tree.body:
        if names := set(_bound(node)):
            segment = ast.get_source_segment(text, node) or ast.unparse(node)
            decorators = getattr(node, "decorator_list", ())
            yield names, "".join(f"@{ast.unparse(d)}\n" for d in decorators) + segment


def _newest(statements: list[Statement]) -> list[Statement]:
    """Without the earlier ones of functions and classes that a later cell defines again."""
    last = {min(names): at for at, (names, text) in enumerate(statements) if _is_block(text)}
    return [
        (names, text)
        for at, (names, text) in enumerate(statements)
        if not _is_block(text) or last[min(names)] == at
    ]


def _is_block(text: str) -> bool:
    return text.startswith(("@", "class ", "def ", "async def "))


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that an import or a definition binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        if getattr(node, "module", "") != "__future__":
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _globals_of(text: str) -> set[str]:
    """The names of its module that a statement reads; local names are not among them."""
    todo = [symtable.symtable(text, PREFIX, "exec")]
    found: set[str] = set()
    while todo:
        table = todo.pop()
        todo += table.get_children()
        is_top = table.get_type() == "module"
        for symbol in table.get_symbols():
            is_global = not symbol.is_assigned() if is_top else symbol.is_global()
            if symbol.is_referenced() and is_global:
                found.add(symbol.get_name())
    return found
