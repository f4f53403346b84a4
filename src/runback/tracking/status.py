"""Sets the status of a run."""

from __future__ import annotations

import time

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from runback.limits import MAX_TAG
from runback.tracking import tags
from runback.tracking.connection import request
from runback.tracking.record import EndStatus


def now_ms() -> int:
    """The current time in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def end_run(
    client: MlflowClient, run_id: str, status: EndStatus, error: str, ended_ms: int
) -> None:
    """Sets a run's final status, deletes its lease, and tags the error, if any."""
    if error:
        client.set_tag(run_id, tags.ERROR, error[:MAX_TAG])
    _delete_tag(client, run_id, tags.LEASE)
    client.set_terminated(run_id, status, end_time=ended_ms)


def fail_run(client: MlflowClient, run_id: str, error: str) -> None:
    """Sets the status of an untrained run to FAILED and tags the error."""
    client.set_tag(run_id, tags.ERROR, error[:MAX_TAG])
    client.set_terminated(run_id, "FAILED")


def reopen_run(client: MlflowClient, run_id: str, entries: dict[str, str]) -> None:
    """Sets a run to RUNNING again, adds tags, and deletes the tag with an earlier error.

    Raises:
        TrackingError: the server is unreachable or rejects the request.
    """
    what = f"run {run_id}"
    new = [RunTag(name, value) for name, value in entries.items()]
    request(what, lambda: client.log_batch(run_id, tags=new))
    request(what, lambda: _delete_tag(client, run_id, tags.ERROR))
    request(what, lambda: client.update_run(run_id, status="RUNNING"))


def _delete_tag(client: MlflowClient, run_id: str, name: str) -> None:
    """Deletes a tag if it exists: of a repeated request, the second finds none."""
    if name not in client.get_run(run_id).data.tags:
        return
    try:
        client.delete_tag(run_id, name)
    except MlflowException:
        if name in client.get_run(run_id).data.tags:
            raise
