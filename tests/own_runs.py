"""What a store has of the runs of own loops."""

from __future__ import annotations

from typing import Any

import mlflow

from conftest import Workspace


def points(place: Workspace, run_id: str, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(place.uri).get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in history)


def runs_of(place: Workspace, name: str = "own") -> list[Any]:
    runs = mlflow.MlflowClient(place.uri).search_runs(["0"], order_by=["attributes.start_time"])
    return [run for run in runs if run.info.run_name == name]
