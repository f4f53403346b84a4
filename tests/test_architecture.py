"""Which package imports which, and what help and usage errors must not import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import PROGRAMS, ROOT, Workspace
from runback.tracking import tags

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
    assert len(MODULES) > 60
    assert "runback.training.steps" in importers("torch")
    assert "runback.tracking.find_run" in importers("mlflow")
    assert "runback.commands.train" in importers("runback.training")


# From the lowest to the highest; the modules of the root stand beside the rooms.
HEIGHTS = (
    {"errors", "decoding", "limits", "processes", "stateful"},
    {"config", "seeding", "user_code", "environment", "console"},
    {"storage"},
    {"columns"},
    {"data"},
    {"tasks"},
    {"model"},
    {"training"},
    {"tracking"},
    {"open_run"},
    {"own_loop"},
    {"commands"},
    {"integrations"},
    {"lightning", "transformers"},
    {"cli"},
    {"__main__"},
)
ROOM_OF = {room: height for height, rooms in enumerate(HEIGHTS) for room in rooms}


def room_of(name: str) -> str:
    """The room of a module, "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def test_no_module_imports_from_a_higher_room() -> None:
    assert {room_of(name) for name in MODULES} - {""} == ROOM_OF.keys()
    for name, file in MODULES.items():
        mine = ROOM_OF.get(room_of(name), 0)  # the package itself imports its errors
        for found in imports(file):
            other = found.split(".")[1] if found.startswith("runback.") else ""
            assert ROOM_OF.get(other, -1) <= mine, f"{name} imports {found}"


@pytest.mark.parametrize("room", ["training", "storage", "data", "columns", "tasks", "model"])
def test_the_rooms_of_a_training_know_no_run(room: str) -> None:
    """Nothing of files, of runs or of the courier: they could train without being tracked."""
    closed = {"storage", "tracking", "open_run", "commands"} - {room}
    for name, file in MODULES.items():
        if room_of(name) == room:
            found = {room_of(i) for i in imports(file) if i.startswith("runback.")}
            assert not found & closed, (name, found & closed)


def test_the_open_run_knows_no_training() -> None:
    """No table, no task, no TrainConfig, no epoch loop."""
    closed = {"config", "columns", "data", "tasks", "model", "training"}
    for name, file in MODULES.items():
        if room_of(name) == "open_run":
            found = {room_of(i) for i in imports(file) if i.startswith("runback.")}
            assert not found & closed, (name, found & closed)


def test_only_tracking_imports_mlflow() -> None:
    for name in importers("mlflow"):
        assert inside(name, "runback.tracking"), name


def modules_after(*names: str) -> set[str]:
    """What a new process has imported once it has imported some modules."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_training_process_imports_no_mlflow() -> None:
    """Not even indirectly: only the courier process does."""
    assert "mlflow" not in modules_after("runback.commands.train", "runback.commands.resume")


def test_the_courier_process_imports_no_torch() -> None:
    """Not even indirectly: it would pay for it at each start of a training."""
    tracking = [name for name in MODULES if room_of(name) == "tracking"]
    assert "torch" not in modules_after(*tracking)


def test_the_client_imports_neither_torch_nor_mlflow() -> None:
    assert not {"torch", "mlflow"} & modules_after("runback.tracking.client")


def test_tags_are_named_in_one_module() -> None:
    """Elsewhere a tag is a constant of `tracking.tags`."""
    names = {value for key, value in vars(tags).items() if key.isupper()}
    assert len(names) > 15
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            literal = isinstance(node, ast.Constant) and node.value in names
            ours = name in ("runback", "runback.tracking.tags")  # the package names its modules
            assert ours or not literal, f"{name}: {node.value}"


TASK_WORDS = re.compile(
    r"\b(rmse|r2|mse|mae|regressor|cross_entropy|bce|accuracy|roc_auc|log_loss)\b", re.IGNORECASE
)


def test_only_the_task_itself_names_its_losses_and_scores() -> None:
    """In code, texts and docstrings; `config` has the choices of the option `loss`, for --help."""
    for name, file in MODULES.items():
        if name.startswith("runback.tasks") or name == "runback.config":
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            assert not TASK_WORDS.search(line), f"{name}: {line}"


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


def test_an_unknown_run_is_reported_before_torch(workspace: Workspace) -> None:
    """Only mlflow is imported, to ask the store."""
    code = (
        "import sys; from runback.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code if 'mlflow' in sys.modules and 'torch' not in sys.modules else 99)"
    )
    unknown = "0" * 32
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", unknown],
        env=workspace.env, cwd=workspace.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done
    assert done.stderr == f"runback: no run {unknown!r} on {workspace.uri}\n"


def test_importing_runback_imports_no_torch() -> None:
    code = "import sys, runback; runback.TrainConfig; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_test_names_have_at_most_60_characters() -> None:
    for file in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert len(node.name) <= 60, f"{file.name}: {node.name}"
