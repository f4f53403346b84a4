"""Checkpoints and metric points of a run, as another machine needs them to resume it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from runback.tracking.runs import download, list_artifacts
from runback.tracking.store import asked

FOLDER = "checkpoints"


def fetch_manifests(client: MlflowClient, run_id: str, folder: Path) -> list[str]:
    """Downloads the manifests of a run's checkpoints into `folder`; returns their names."""
    names = [name for name in list_artifacts(client, run_id, FOLDER) if name.endswith(".json")]
    for name in names:
        download(client, run_id, f"{FOLDER}/{name}", folder)
    return names


def points_after(client: MlflowClient, run_id: str, epoch: int) -> list[list[Any]]:
    """The published points `[key, step, value, timestamp]` of all metrics with step > epoch."""
    keys = asked(f"run {run_id}", lambda: client.get_run(run_id)).data.metrics
    points = []
    for key in keys:
        history = asked(f"metric {key}", partial(client.get_metric_history, run_id, key))
        points += [[p.key, p.step, p.value, p.timestamp] for p in history if p.step > epoch]
    return points
