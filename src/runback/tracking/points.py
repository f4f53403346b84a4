"""The published metric points of a run, and scores logged after its training."""

from __future__ import annotations

from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Metric

from runback.storage.journal import Point
from runback.tracking.connection import request
from runback.tracking.status import now_ms


def published_points(client: MlflowClient, run_id: str) -> list[Point]:
    """All points of all metrics of a run."""
    keys = request(f"run {run_id}", lambda: client.get_run(run_id)).data.metrics
    points = []
    for key in keys:
        points += history(client, run_id, key)
    return points


def history(client: MlflowClient, run_id: str, key: str) -> list[Point]:
    """The points of one metric of a run; empty if it has none.

    Raises:
        TrackingError: the server is unreachable.
    """
    found = request(f"metric {key}", partial(client.get_metric_history, run_id, key))
    return [Point(p.key, p.step, p.value, p.timestamp) for p in found]


def log_scores(client: MlflowClient, run_id: str, scores: dict[str, float], step: int) -> None:
    """Logs scores as metrics of a step."""
    metrics = [Metric(key, value, now_ms(), step) for key, value in scores.items()]
    request(f"run {run_id}", lambda: client.log_batch(run_id, metrics=metrics))
