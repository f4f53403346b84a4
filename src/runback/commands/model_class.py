"""A module class given to `train` as an object: found in its file, or taken out of a script.

A class of a script or of a notebook is written to a file of its own, with the imports and the
definitions that it uses. The script itself is never run again.
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

from torch import nn

from runback.errors import ModelError
from runback.user_code import LIBRARIES

MODULE = "own_model"
FUTURE = "from __future__ import annotations"
Statement = tuple[set[str], str]  # the names that it binds, and its text
_GIVEN = {*dir(builtins), "__name__", "__file__", "__doc__"}


def model_of(cls: Any, folder: Path) -> tuple[str, Path | None]:
    """The option `model` that names a class, and the folder with its source if one was written.

    Args:
        cls: the class.
        folder: an existing folder, to which the source of a script's class is written.

    Raises:
        ModelError: not a subclass of nn.Module, or its source cannot be had.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ModelError(f"option model: {cls!r} is neither a name nor a class of nn.Module")
    name = cls.__qualname__
    if not name.isidentifier():
        raise ModelError(
            f"option model: the class {name} is defined inside a function or a class; define it at "
            "the top of a file"
        )
    if cls.__module__ != "__main__":
        return f"{_location(cls)}:{name}", None
    text = standalone_source(_scripts(name), name)
    (folder / f"{MODULE}.py").write_text(text, encoding="utf-8")
    return f"{MODULE}.py:{name}", folder


def standalone_source(scripts: Sequence[str], name: str) -> str:
    """A class with the imports and the top-level definitions that it uses, transitively.

    Args:
        scripts: the text of a script, or of each cell of a notebook, in order.
        name: of the class.

    Raises:
        ModelError: the class, or a name that it uses, is not defined at the top of the scripts.
    """
    statements = _newest([part for text in scripts for part in _statements(text)])
    needed, todo = {name}, [name]
    while todo:
        wanted = todo.pop()
        found = [text for names, text in statements if wanted in names]
        if not found:
            raise ModelError(
                f"option model: the source of class {name} cannot be kept: {wanted!r} is no import, "
                "class, function or constant at the top of its script; define it there, or move the "
                "class to a file of its own"
            )
        new = {used for text in found for used in _globals_of(text)} - needed - _GIVEN
        needed |= new
        todo += sorted(new)
    kept = [text for names, text in statements if names & needed]
    future = [FUTURE] if any(FUTURE in text for text in scripts) else []
    return "\n\n".join([*future, *kept]) + "\n"


def _location(cls: type) -> str:
    """The file of a class's module, or the dotted name of one in a package."""
    module = cls.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if "." in module or module in LIBRARIES:
        return module
    if not file or not file.endswith(".py"):
        raise ModelError(f"option model: the source of class {cls.__name__} cannot be found")
    return str(file)


def _scripts(name: str) -> list[str]:
    """The text of the running script, or of the cells of the running notebook."""
    main = sys.modules["__main__"]
    cells = getattr(main, "In", None)  # of IPython
    if isinstance(cells, list):
        return [str(cell) for cell in cells]
    try:
        return [inspect.getsource(main)]
    except (OSError, TypeError):
        raise ModelError(
            f"option model: the source of class {name} cannot be found; move the class to a file"
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
    todo = [symtable.symtable(text, MODULE, "exec")]
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
