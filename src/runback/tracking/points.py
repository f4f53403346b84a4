"""The published metric points of a run, and scores logged after its training."""

from __future__ import annotations

from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import GetMetricHistoryBulkInterval
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.proto_json_utils import message_to_json

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


def sampled(client: MlflowClient, run_id: str, key: str, most: int) -> list[Point]:
    """At most `most` points of one metric of a run, evenly spaced; all of a metric with fewer.

    MLflow's client can only read a whole history, which takes seconds for a long one. Its stores and
    servers sample for the UI; where one does not, the whole history is read.

    Raises:
        TrackingError: the server is unreachable.
    """
    try:
        found = _sampled(client._tracking_client.store, run_id, key, most)
    except (MlflowException, AttributeError, TypeError, NotImplementedError):
        return history(client, run_id, key)
    return [Point(p.key, p.step, p.value, p.timestamp) for p in found]


def _sampled(store: AbstractStore, run_id: str, key: str, most: int) -> list[Metric]:
    if not isinstance(store, RestStore):
        return list(store.get_metric_history_bulk_interval([run_id], key, most, None, None))
    question = GetMetricHistoryBulkInterval(run_ids=[run_id], metric_key=key, max_results=most)
    reply = store._call_endpoint(GetMetricHistoryBulkInterval, message_to_json(question))
    return list(reply.metrics)


def log_scores(client: MlflowClient, run_id: str, scores: dict[str, float], step: int) -> None:
    """Logs scores as metrics of a step."""
    metrics = [Metric(key, value, now_ms(), step) for key, value in scores.items()]
    request(f"run {run_id}", lambda: client.log_batch(run_id, metrics=metrics))
