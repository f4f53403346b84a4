"""Which package imports which, and what help and usage errors must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import PROGRAMS, ROOT

SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "runback").rglob("*.py"))


def module_of(file: Path) -> str:
    name = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a tree except blocks under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes(node)


def imports(file: Path) -> Iterator[str]:
    """The absolute names of all imports in a file; `from a import b` gives `a` and `a.b`."""
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


def test_the_import_checks_find_known_imports() -> None:
    assert len(MODULES) > 30
    assert "runback.training.steps" in importers("torch")
    assert "runback.tracking.runs" in importers("mlflow")
    assert "runback.commands.train" in importers("runback.training")


def test_only_tracking_imports_mlflow() -> None:
    for name in importers("mlflow"):
        assert inside(name, "runback.tracking"), name


def test_the_training_process_does_not_import_mlflow() -> None:
    """Not even indirectly: only the courier process imports mlflow."""
    code = "import sys, runback.commands.train; assert 'mlflow' not in sys.modules, 'mlflow'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["model", "data", "training", "storage"])
def test_lower_packages_do_not_import_upper_ones(room: str) -> None:
    for name, file in MODULES.items():
        if inside(name, f"runback.{room}"):
            upper = ("runback.tracking", "runback.commands")
            assert not [i for i in imports(file) if any(inside(i, room) for room in upper)], name


def test_training_imports_no_storage() -> None:
    for name, file in MODULES.items():
        if inside(name, "runback.training"):
            assert not [i for i in imports(file) if inside(i, "runback.storage")], name


def test_only_main_imports_the_cli() -> None:
    assert importers("runback.cli") == {"runback.__main__"}


def test_no_module_loads_pickles() -> None:
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("weights_only") == "True", name
        assert not [i for i in imports(file) if i in ("mlflow.pytorch", "cloudpickle", "joblib")]


def test_help_and_usage_errors_import_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "answer_without_torch.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_importing_runback_imports_no_torch() -> None:
    code = "import sys, runback; runback.TrainConfig; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_test_names_have_at_most_60_characters() -> None:
    for file in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert len(node.name) <= 60, f"{file.name}: {node.name}"
