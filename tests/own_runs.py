"""Scripts with a loop of their own, and what a store has of their runs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import mlflow

from conftest import PROGRAMS, SECONDS, Workspace


def program(
    place: Workspace, name: str, *arguments: object, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs one of `tests/programs` to its end."""
    return subprocess.run(
        [sys.executable, str(PROGRAMS / name), *map(str, arguments)],
        cwd=place.folder, env={**place.env, **env}, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip


def points(place: Workspace, run_id: str, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(place.uri).get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in history)


def runs_of(place: Workspace, name: str = "own") -> list[Any]:
    runs = mlflow.MlflowClient(place.uri).search_runs(["0"], order_by=["attributes.start_time"])
    return [run for run in runs if run.info.run_name == name]
