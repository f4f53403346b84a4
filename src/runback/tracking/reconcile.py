"""Brings a journal up to date that is behind the server, such as one restored from an older copy.

What an older journal still holds as undelivered must replace nothing newer on the server.
"""

from __future__ import annotations

import re
from typing import get_args

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from runback.storage.journal import Item, Journal
from runback.tracking import artifacts, tags
from runback.tracking.connection import request
from runback.tracking.points import published_points
from runback.tracking.record import EndStatus, RunRecord

CHECKPOINTS = "checkpoints/"


def catch_up(client: MlflowClient, journal: Journal, record: RunRecord) -> bool:
    """Compares the last points of a journal and of its run; returns whether the journal was behind.

    If it was, all published points are adopted, and undelivered files are dropped that are on the
    server or older than its newest checkpoint. If the server has lost points, they are sent again.

    Raises:
        TrackingError: the server is unreachable.
    """
    if not journal.is_behind(record.last_points):
        journal.resend_lost(record.last_points)
        return False
    journal.adopt(published_points(client, record.run_id))
    _drop_stale_files(journal, record)
    return True


def adopt_status(journal: Journal, run: Run) -> bool:
    """Adopts the final status of a run whose journal has none or an older one; whether it has ended."""
    if run.info.status not in get_args(EndStatus):
        return False
    status = [run.info.status, run.data.tags.get(tags.ERROR, "")]
    journal.set_facts({"status": status, "status_delivered": status})
    return True


def _drop_stale_files(journal: Journal, record: RunRecord) -> None:
    waiting = journal.waiting_files()
    folders = {item.payload["artifact_path"] for item in waiting}
    what, repository = f"run {record.run_id}", get_artifact_repository(record.artifact_uri)
    stored = request(what, lambda: artifacts.sizes(repository, folders)) if waiting else {}
    newest = max((_position(path) for path in stored if path.startswith(CHECKPOINTS)), default=())
    for item in waiting:
        path = _path(item)
        is_old = path.startswith(CHECKPOINTS) and _position(path) < newest
        if path in stored or is_old:
            journal.settle(item)


def _path(item: Item) -> str:
    """The artifact path of a file entry."""
    name = item.payload["file"].rpartition("/")[2]
    return f"{item.payload['artifact_path']}/{name}".lstrip("/")


def _position(path: str) -> tuple[int, ...]:
    """The numbers in a checkpoint's name, which order checkpoints: epoch, then batch."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", path.rpartition("/")[2]))
