"""Finished runs in one store, trained once for all tests that only read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import DATA, PROGRAMS, Workspace


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
    "weak": {"data": "table.csv", "model": "polynomial", "epochs": 5},
    "strong": {
        "data": "table.csv",
        "model": "polynomial",
        "epochs": 60,
        "checkpoint_every": 30,
    },
    "victim": {
        "data": "table.csv",
        "model": "polynomial",
        "epochs": 6,
        "checkpoint_every": 3,
        "register": "victim",
    },
    "own": {
        "data": "diabetes.csv",
        "model": "nets.py:Net",
        "model_args": {"hidden": 6},
        "normalize": "quantile",
        "normalize_target": "standard",
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
        "store_data": "false",
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
    for module in ("nets.py", "layers.py"):
        shutil.copyfile(PROGRAMS / module, workspace.folder / module)
    done = subprocess.run(
        [sys.executable, PROGRAMS / "train_runs.py", json.dumps(runs)],
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
