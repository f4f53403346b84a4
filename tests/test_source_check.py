"""Files of own code are read before they are run."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import DATA, ROOT, Workspace
from runback.commands.source_check import check_sources, training_line
from runback.config import TrainConfig
from runback.errors import DataError, ModelError

HEAD = "from pathlib import Path\nPath('ran').touch()\nfrom torch import nn\nimport torch\n"
BODY = "    def __init__(self, n_features, n_targets, hidden=4):\n        super().__init__()\n"
FORWARD = "    def forward(self, x):\n        return x\n"
# In a sentence of Python's for an argument that is passed by its name only.
BY_NAME = "keyword-only " if sys.version_info >= (3, 13) else ""
NET = f"class Net(nn.Module):\n{BODY}{FORWARD}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(text: str, **options: Any) -> None:
    Path("mine.py").write_text(HEAD + text)
    check_sources(
        TrainConfig(**{"data": f"{DATA}/diabetes.csv", "model": "mine.py:Net", **options})
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("class Other(nn.Module): pass", "mine.py defines no 'Net'; it has Other"),
        ("class Net: pass", "class Net is not one of nn.Module"),
        (f"class Net(nn.Module):\n{FORWARD}", "class Net has no __init__; it is called as Net(n_fea"),
        (f"class Net(nn.Module):\n{BODY}", "option model: mine.py:Net: class Net has no forward"),
        (NET.replace("hidden=4", "hidden"), "missing a required argument: 'hidden'"),
        (NET.replace("hidden=4", "*, hidden"), f"missing a required {BY_NAME}argument: 'hidden'"),
        (NET.replace(", n_targets, hidden=4", ""), "too many positional arguments"),
        (NET.replace("__init__(self", "__init__(self, *"), "too many positional arguments"),
        (f"{NET}Net(1, 1)(torch.ones(1, 1)).sum().backward()", "mine.py, line 10: the file trains"),
        (f"{NET}def fit():\n    step()\ndef step():\n    x.backward()\nif 1:\n    fit()", "line 15: "),
        (f"{NET}import runback\nrunback.train(model=Net)", "line 11: the file trains when it is im"),
        (f"from runback import train as go\n{NET}go()", "put what follows its definitions under: if"),
    ],
)  # fmt: skip
def test_a_class_is_refused_before_its_file_is_run(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        check(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        NET,
        f"{NET}if __name__ == '__main__':\n    torch.ones(1).backward()",
        f"{NET}def fit():\n    torch.ones(1).backward()",
        f"from other import Base\nclass Net(Base):\n{FORWARD}",
        "from other import Net",
        "from other import *",
        "try:\n    from other import Net\nexcept ImportError:\n    pass",
        "Net = nn.Linear",
        f"@decorated\nclass Net(nn.Module):\n{BODY}",
        NET.replace("n_targets, hidden=4", "*args, **kwargs"),
        NET.replace("hidden=4", "columns"),
        "class Net(",
        NET.replace("def forward(self, x):\n        return x", "forward = other"),
    ],
)
def test_what_the_text_does_not_tell_is_not_refused(folder: Path, text: str) -> None:
    check(text)
    assert not (folder / "ran").exists()


def test_unknown_model_args_are_refused_before_the_import(folder: Path) -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument 'depth'"):
        check(NET, model_args={"depth": 3})
    check(NET, model_args={"hidden": 3})


def test_files_of_functions_and_datasets_are_read_too(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"option loss: .*mine.py defines no 'f'; it has g"):
        check("def g(a, b): pass", model="linear", loss="mine.py:f")
    with pytest.raises(DataError, match=r"option data: .*mine.py, line 5: the file trains"):
        check("nn.f().backward()", model="linear", data="mine.py:Data")


@pytest.mark.parametrize(
    "file", ["examples/nets.py", "examples/digits.py", "tests/programs/nets.py"]
)
def test_files_of_ours_do_not_train_when_imported(file: str) -> None:
    assert training_line(ast.parse((ROOT / file).read_text(encoding="utf-8"))) == 0


def test_the_command_line_reads_the_file_first(workspace: Workspace) -> None:
    (workspace.folder / "mine.py").write_text(f"{HEAD}import time\n{NET}Net(1, 1).backward()\n")
    done = workspace.runback("train", "--data", f"{DATA}/diabetes.csv", "--model", "mine.py:Net")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "line 11: the file trains" in done.stderr
    assert not (workspace.folder / "ran").exists()
