"""The walls of the house: who imports whom, and what a quick answer must not wait for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "runback").rglob("*.py"))


def module_of(file: Path) -> str:
    name = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything in a file but what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes(node)


def imports(file: Path) -> Iterator[str]:
    """The absolute names of all that a file imports, wherever in it; `from a import b` gives both."""
    for node in nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def importers(package: str) -> set[str]:
    return {
        name for name, file in MODULES.items() if any(inside(found, package) for found in imports(file))
    }  # fmt: skip


def test_the_walls_are_looked_for_where_the_house_is() -> None:
    assert len(MODULES) > 30
    assert "runback.training.steps" in importers("torch")
    assert "runback.tracking.runs" in importers("mlflow")
    assert "runback.commands.train" in importers("runback.training")


def test_only_tracking_imports_mlflow() -> None:
    for name in importers("mlflow"):
        assert inside(name, "runback.tracking"), name


def test_the_training_process_does_not_import_mlflow() -> None:
    """Not even through what it imports: mlflow is the courier's, in a process of its own."""
    code = "import sys, runback.commands.train; assert 'mlflow' not in sys.modules, 'mlflow'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["model", "data", "training", "storage"])
def test_the_lower_rooms_do_not_know_tracking(room: str) -> None:
    for name, file in MODULES.items():
        if inside(name, f"runback.{room}"):
            upper = ("runback.tracking", "runback.commands")
            assert not [
                i for i in imports(file) if any(inside(i, workspace) for workspace in upper)
            ], name


def test_training_knows_nothing_of_files() -> None:
    for name, file in MODULES.items():
        if inside(name, "runback.training"):
            assert not [i for i in imports(file) if inside(i, "runback.storage")], name


def test_cli_is_imported_by_nobody() -> None:
    assert importers("runback.cli") == {"runback.__main__"}


def test_no_module_imports_the_pickle_flavour_or_loads_without_weights_only() -> None:
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("weights_only") == "True", name
        assert not [i for i in imports(file) if i in ("mlflow.pytorch", "cloudpickle", "joblib")]


def test_help_and_mistakes_answer_without_torch_and_mlflow(tmp_path: Path) -> None:
    """All in one process: what one of them imports, none of the others may have imported."""
    code = """
import contextlib, io, sys
from runback.cli import main

def run(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                code = main(argv)
            except SystemExit as end:
                code = end.code
    heavy = {"torch", "mlflow", "pandas", "numpy", "pyarrow", "sklearn", "matplotlib"}
    heavy |= {"pydantic", "pydantic_core"} - validating
    assert not heavy & set(sys.modules), (argv, heavy & set(sys.modules))
    return code, out.getvalue(), err.getvalue()

validating = set()
for argv in (["--help"], ["train", "--help"], ["resume", "--help"], ["--version"]):
    code, out, err = run(*argv)
    assert code == 0 and out and not err, (argv, code, err)
refused = (
    [], ["bogus"], ["train", "--lrr", "3"], ["train", "-x", "3"], ["train", "one"],
    ["train", "--lr"], ["train", "--config", "missing.toml"], ["train", "--ep", "3"], ["resume"],
    ["predict", "latest"], ["evaluate", "latest", "--dta", "x.csv"],
)
ill_typed = (["train", "--lr", "abc"], ["train", "--device", "tpu"])
for argv in (*refused, *ill_typed):
    if argv in ill_typed:
        validating = {"pydantic", "pydantic_core"}
    code, out, err = run(*argv)
    assert code == 2, (argv, code)
    assert not out and err.startswith("runback: ") and err.count("\\n") == 1, (argv, out, err)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_importing_runback_costs_nothing() -> None:
    code = "import sys, runback; runback.TrainConfig; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
