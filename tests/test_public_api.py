"""The public API: what `dir(runback)` lists is importable, complete and visible to type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runback
from runback import cli, errors
from runback.errors import RunbackError

COMMANDS = [command.name for command in cli.COMMANDS]


def visible_names() -> Iterator[str]:
    """The names that a type checker or an editor sees in runback/__init__.py."""
    for node in ast.walk(ast.parse(Path(runback.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("runback."):
            yield from (alias.asname or alias.name for alias in node.names)


def test_dir_lists_the_public_api_and_nothing_else() -> None:
    public = [name for name in dir(runback) if not name.startswith("_")]
    assert public == sorted(runback.__all__)
    assert "__version__" in dir(runback)


def test_type_checkers_see_every_public_name() -> None:
    assert sorted(visible_names()) == sorted(runback.__all__)


@pytest.mark.parametrize("name", runback.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(runback, name)
    assert callable(found)
    assert found.__name__ == name
    assert found.__doc__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_public_function(name: str) -> None:
    assert name in runback.__all__


def test_every_error_is_public() -> None:
    found = {
        n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, RunbackError)
    }
    assert found <= set(runback.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'runback' has no attribute 'nothing'"):
        runback.nothing  # noqa: B018


def test_importing_runback_imports_no_large_library() -> None:
    code = (
        "import sys, runback; dir(runback); runback.TrainConfig; "
        "print({'torch', 'mlflow', 'pydantic', 'numpy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
