"""Checkpoints and metric points of a run, as another machine needs them to resume it."""

from __future__ import annotations

import contextlib
from functools import partial

from mlflow import MlflowClient

from runback.storage.journal import Journal, Point
from runback.storage.paths import run_dir
from runback.tracking.connection import asked
from runback.tracking.runs import list_artifacts

FOLDER = "checkpoints"


def checkpoint_files(client: MlflowClient, run_id: str) -> list[str]:
    """The names of a run's checkpoints and their manifests."""
    return list_artifacts(client, run_id, FOLDER)


def adopt(client: MlflowClient, run_id: str) -> None:
    """Puts all published points of a run into the journal here, as delivered."""
    with contextlib.closing(Journal(run_dir(run_id).journal)) as journal:
        journal.adopt(published_points(client, run_id))


def published_points(client: MlflowClient, run_id: str) -> list[Point]:
    """All points of all metrics of a run."""
    keys = asked(f"run {run_id}", lambda: client.get_run(run_id)).data.metrics
    points = []
    for key in keys:
        history = asked(f"metric {key}", partial(client.get_metric_history, run_id, key))
        points += [Point(p.key, p.step, p.value, p.timestamp) for p in history]
    return points
