"""Finished runs in one store, trained once for all tests that only read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import DATA, Workspace

# A sibling import, nesting, dropout and batch norm: what a user's module may have.
NETS = """
from torch import nn
from layers import Block

class Net(nn.Module):
    def __init__(self, n_features, n_targets, hidden=8):
        super().__init__()
        self.net = nn.ModuleDict({"enter": nn.Linear(n_features, hidden),
                                  "body": nn.Sequential(Block(hidden), nn.Sequential(Block(hidden))),
                                  "leave": nn.Linear(hidden, n_targets)})

    def forward(self, x):
        return self.net["leave"](self.net["body"](self.net["enter"](x)))
"""
LAYERS = """
import scipy.special
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width),
                                    nn.Dropout(0.25))

    def forward(self, x):
        return x + self.layers(x)
"""

# Trains each run, and keeps what the module of the training process itself answers at the end.
MAKE = """
import json, sys
import numpy as np, torch
from runback import TrainConfig
from runback.commands import train as jobs

INPUTS = {"own": torch.arange(30.0).reshape(3, 10) / 7}
real = jobs.finish

def finish(recorder, work):
    real(recorder, work)
    model = work.state.model.eval()
    x = INPUTS.get(name, torch.tensor([[1.0], [5.0], [11.0]]))
    with torch.no_grad():
        answers[name] = model(x.repeat(1, len(work.table.columns.features) // x.shape[1])).tolist()

jobs.finish = finish
answers, ids = {}, {}
for name, options in json.loads(sys.argv[1]).items():
    ids[name] = jobs.train(TrainConfig(**options))
print(json.dumps({"ids": ids, "answers": answers}))
"""


@dataclass(frozen=True)
class FinishedRuns:
    """Finished runs.

    Attributes:
        workspace: their store; its folder holds `table.csv` and `diabetes.csv`.
        ids: run IDs by name.
        answers: predictions of the training process for its probe rows, by name.
    """

    workspace: Workspace
    ids: dict[str, str]
    answers: dict[str, list[list[float]]]


RUNS = {
    "weak": {"data": "table.csv", "epochs": 5},
    "strong": {"data": "table.csv", "epochs": 60, "checkpoint_every": 30},
    "victim": {"data": "table.csv", "epochs": 6, "checkpoint_every": 3, "register": "victim"},
    "own": {
        "data": "diabetes.csv",
        "model": "nets.py:Net",
        "model_args": {"hidden": 6},
        "normalize": "standard",
        "optimizer": "adam",
        "lr": 0.01,
        "epochs": 4,
        "batch_size": 64,
    },
    "pair": {
        "data": "pair.csv",
        "target": ["y1", "y2"],
        "model": "linear",
        "split": "1:0:0",
        "epochs": 3,
        "batch_size": 2,
        "register": "none",
    },
}


def make_runs(workspace: Workspace, runs: dict[str, dict[str, object]]) -> FinishedRuns:
    """Trains runs in one process, in a workspace with the tables and the user's module."""
    for source, name in (
        ("non_linear", "table"),
        ("diabetes", "diabetes"),
        ("multiple_linear", "pair"),
    ):
        shutil.copyfile(DATA / f"{source}.csv", workspace.folder / f"{name}.csv")
    (workspace.folder / "nets.py").write_text(NETS)
    (workspace.folder / "layers.py").write_text(LAYERS)
    done = subprocess.run(
        [sys.executable, "-c", MAKE, json.dumps(runs)],
        cwd=workspace.folder, env=workspace.env, text=True, capture_output=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    return FinishedRuns(workspace, made["ids"], made["answers"])


def make_finished_runs(folder: Path, database: Path) -> FinishedRuns:
    """Trains `RUNS` in `folder`, then deletes or changes the files that they were trained from."""
    shutil.copyfile(database, folder / "mlflow.db")
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    env |= {"RUNBACK_HOME": str(folder / ".runback"), "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "0"}
    made = make_runs(Workspace(folder, env["MLFLOW_TRACKING_URI"], env), RUNS)
    (folder / "nets.py").write_text("class Renamed: pass\n")
    (folder / "layers.py").write_text("raise RuntimeError('another version of it')\n")
    (folder / "pair.csv").unlink()
    return made
