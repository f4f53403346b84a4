"""Checks of the files of a user's own code before they are run, as far as their text tells."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runback.config import TrainConfig, own_references
from runback.data.files import is_dataset
from runback.errors import DataError, ModelError
from runback.user_code import LIBRARIES, is_user_defined, locate, source_file

MODULES = {"nn.Module", "torch.nn.Module"}
ROWS = ("n_features", "n_targets")
THIRD = ("columns", "shape")  # the optional third argument of a module
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
STARTS = {"runback.train", "runback.resume", "runback.reproduce"}


def check_sources(config: TrainConfig) -> None:
    """Reads the files that the options name; none is run.

    Raises:
        DataError: of the option `data`, as ModelError.
        ModelError: a file trains when it is imported, or lacks the class or the function; or the
            module's class cannot be called with the arguments, or has no forward.
    """
    named = {"model": (config.model,), "data": (config.data,), **own_references(config)}
    for option, references in named.items():
        for reference in references:
            is_own = is_dataset(reference) if option == "data" else is_user_defined(reference)
            if is_own:
                with _errors_of(option):
                    _check(reference, option, config.model_args)


@contextmanager
def _errors_of(option: str) -> Iterator[None]:
    """Makes errors of a dataset those of data."""
    try:
        yield
    except ModelError as error:
        raise (DataError(str(error)) if option == "data" else error) from None


def _check(reference: str, option: str, model_args: Mapping[str, Any]) -> None:
    code = locate(reference, option)
    file = None if code.top in LIBRARIES else source_file(code)
    tree = _parsed(file) if file else None
    if tree is None:
        return
    if line := training_line(tree):
        raise ModelError(
            f"option {option}: {file}, line {line}: the file trains when it is imported; put what "
            "follows its definitions under: if __name__ == '__main__':"
        )
    names = set(_bound(tree.body))
    if code.name not in names and "*" not in names and "__getattr__" not in names:
        raise ModelError(f"option {option}: {file} defines no {code.name!r}{_near(tree, option)}")
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == code.name]
    if option == "model" and classes and names:
        _check_class(classes[-1], reference, model_args)


def _parsed(file: Path) -> ast.Module | None:
    """The statements of a file; None if it has none that Python can read, which its import tells."""
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _near(tree: ast.Module, option: str) -> str:
    """What else the file defines at its top, as the end of a sentence."""
    kind = ast.FunctionDef if option in ("loss", "metrics") else ast.ClassDef
    names = [node.name for node in tree.body if isinstance(node, kind)]
    return f"; it has {', '.join(names[:5])}" if names else ""


def _bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that statements of a module can bind, also inside of if, try, with and for."""
    for node in _statements(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of a module but those inside of definitions, which an import does not run, and of
    its main block."""
    for node in body:
        if not _is_main(node):
            yield node
            if not isinstance(node, DEFINITIONS):
                yield from _statements(ast.iter_child_nodes(node))


def _is_main(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def training_line(tree: ast.Module) -> int:
    """The line of a module at which its import begins to train; 0 if none does.

    Training is a call of `backward`, or of a command of runback, also in a function of the file that
    the import calls.
    """
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    commands = STARTS | {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "runback"
        for alias in node.names
        if f"runback.{alias.name}" in STARTS
    }
    for node in _statements(tree.body):
        if isinstance(node, ast.Call) and _trains(node, functions, commands, set()):
            return node.lineno
    return 0


def _trains(
    call: ast.Call, functions: Mapping[str, ast.FunctionDef], commands: set[str], seen: set[str]
) -> bool:
    name = ast.unparse(call.func)
    if name in commands or (isinstance(call.func, ast.Attribute) and call.func.attr == "backward"):
        return True
    if name not in functions or name in seen:
        return False
    seen.add(name)
    inside = (n for n in ast.walk(functions[name]) if isinstance(n, ast.Call))
    return any(_trains(node, functions, commands, seen) for node in inside)


def _check_class(node: ast.ClassDef, reference: str, model_args: Mapping[str, Any]) -> None:
    """Checks a class without decorators whose bases are no other than nn.Module.

    Raises:
        ModelError: as in `check_sources`.
    """
    if not node.bases and not node.keywords and not node.decorator_list:
        raise ModelError(f"option model: {reference}: class {node.name} is not one of nn.Module")
    if node.decorator_list or {ast.unparse(base) for base in node.bases} - MODULES:
        return
    methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    names = methods.keys() | set(_bound(node.body))
    if "__init__" not in names:
        raise ModelError(
            f"option model: {reference}: class {node.name} has no __init__; it is called as "
            f"{node.name}({', '.join(ROWS)}, **model_args)"
        )
    if "forward" not in names:
        raise ModelError(f"option model: {reference}: class {node.name} has no forward")
    init = methods.get("__init__")
    if init is not None and not init.decorator_list:
        _check_arguments(node.name, init.args, reference, model_args)


def _check_arguments(
    name: str, arguments: ast.arguments, reference: str, model_args: Mapping[str, Any]
) -> None:
    signature = _signature(arguments)
    given = list(ROWS)
    third = list(signature.parameters)[3:4]
    if third and third[0] in THIRD and third[0] not in model_args:
        given += third
    try:
        signature.bind(None, *given, **model_args)
    except TypeError as error:
        raise ModelError(
            f"option model_args: {reference} is called as {name}({', '.join(given)}, **model_args): "
            f"{error}"
        ) from None


def _signature(arguments: ast.arguments) -> inspect.Signature:
    """The signature of a function that is defined with some arguments; defaults are any value."""
    kinds = inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    first = len(plain) - len(arguments.defaults)
    found = [
        kinds(
            argument.arg,
            kinds.POSITIONAL_ONLY
            if index < len(arguments.posonlyargs)
            else kinds.POSITIONAL_OR_KEYWORD,
            default=None if index >= first else kinds.empty,
        )
        for index, argument in enumerate(plain)
    ]
    if arguments.vararg:
        found.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        value = kinds.empty if default is None else None
        found.append(kinds(argument.arg, kinds.KEYWORD_ONLY, default=value))
    if arguments.kwarg:
        found.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(found)
