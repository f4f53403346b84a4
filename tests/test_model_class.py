"""A class of nn.Module given to `train`: of a script, of a notebook's cells, or of a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import runback
from conftest import DATA, Workspace
from runback.errors import ModelError
from runback.model.own_source import reference_of, standalone_source

SCRIPT = '''
import sys
from torch import nn

import pandas as pd
import runback

open("runs.txt", "a").write("run\\n")
WIDTH = 3
x = open("runs.txt").read()


def layers(n_in, n_out):
    """Uses a constant of the script."""
    return nn.Sequential(nn.Linear(n_in, WIDTH), nn.Tanh(), nn.Linear(WIDTH, n_out))


class Base(nn.Module):
    pass


class Net(Base):
    def __init__(self, n_features, n_targets):
        super().__init__()
        self.inner = layers(n_features, n_targets)

    def forward(self, x):
        return self.inner(x)


frame = pd.read_csv(sys.argv[1])
done = runback.train(frame, model=Net, epochs=2, batch_size=16, checkpoint_every=1, register="net")
print(done.run_id)
'''


def test_the_class_of_a_script_is_kept_with_the_run(workspace: Workspace) -> None:
    (workspace.folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", DATA / "non_linear.csv"],
        cwd=workspace.folder, env=workspace.env, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    (workspace.folder / "script.py").unlink()
    resumed = workspace.runback("resume", run_id, "--epochs", "4")
    assert resumed.returncode == 0, resumed.stderr
    evaluated = workspace.runback("evaluate", run_id)
    assert evaluated.returncode == 0, evaluated.stderr
    assert runback.load_model(run_id)(torch.ones(2, 1)).shape == (2, 1)
    assert (workspace.folder / "runs.txt").read_text() == "run\n"
    (source,) = (workspace.home(run_id) / "source").iterdir()
    text = source.read_text()
    assert "WIDTH = 3" in text and "class Base" in text and "def layers" in text
    assert "runback" not in text and "pandas" not in text and "runs.txt" not in text


def test_later_cells_of_a_notebook_replace_earlier_ones() -> None:
    net = "class Net(nn.Module):\n    size = SIZE\n"
    wrong = "class Net(nn.Modul):\n    pass\n"
    cells = [
        "from torch import nn",
        "%magic",
        "SIZE = 1",
        wrong,
        net,
        "SIZE = 2",
        "train(model=Net)",
    ]
    text = standalone_source(cells, "Net")
    assert text == f"from torch import nn\n\nSIZE = 1\n\n{net.strip()}\n\nSIZE = 2\n"


def test_a_name_that_is_defined_nowhere_is_refused() -> None:
    cell = "from torch import nn\nfor n in [1]: pass\nclass Net(nn.Module):\n    k = n\n"
    with pytest.raises(ModelError, match=r"source of Net cannot be kept: 'n' is no import, class"):
        standalone_source([cell], "Net")


def test_a_class_of_a_file_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_nets  # type: ignore[import-not-found]

    assert reference_of(my_nets.Net, "model", tmp_path) == f"{tmp_path}/my_nets.py:Net"
    assert reference_of(nn.Linear, "model", tmp_path) == "torch.nn.modules.linear:Linear"
    del sys.modules["my_nets"]


def test_an_object_that_is_no_usable_class_is_refused(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(ModelError, match="is defined inside a function or a class"):
        reference_of(Local, "model", tmp_path)
    with pytest.raises(ModelError, match="is neither a name nor a class"):
        reference_of(3, "model", tmp_path)
    with pytest.raises(ModelError, match="is neither a name nor a class"):
        reference_of(nn.Linear(1, 1), "model", tmp_path)


def test_a_main_without_source_is_refused(tmp_path: Path) -> None:
    own = type("Net", (nn.Module,), {"__module__": "__main__", "__qualname__": "Net"})
    with pytest.raises(ModelError, match="source of Net"):
        reference_of(own, "model", tmp_path)
