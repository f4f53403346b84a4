"""Delivers a journal to MLflow. All operations are idempotent."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from runback.errors import CheckpointError
from runback.storage.atomic import sha256_of
from runback.storage.journal import Item, Journal
from runback.storage.paths import RunDir
from runback.tracking import artifacts, tags
from runback.tracking.connection import (
    client_of,
    describe_error,
    is_http,
    is_permanent,
    public_uri,
    repeated,
)
from runback.tracking.notes import note_tags
from runback.tracking.record import EndStatus
from runback.tracking.status import end_run, now_ms
from runback.tracking.views import write_view

# MLflow's limits per call (mlflow.utils.validation.MAX_METRICS_PER_BATCH and
# MAX_PARAMS_TAGS_PER_BATCH).
BATCH_METRICS = 1000
BATCH_PARAMS = 100
MAX_AUDITS = 3
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


@dataclass(frozen=True)
class Counts:
    """Numbers of delivered metric points and outbox entries."""

    points: int
    items: int

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.points - other.points, self.items - other.items)


class Delivery:
    """The delivery of one journal to its run.

    Args:
        folder: of the run.
        journal: of the run.
        client: of the run's server; None to connect on first use.

    Attributes:
        error: the message of the last failure; empty after a success.
        has_permanent_error: whether a retry of the last failure cannot succeed.
        sent: what was delivered so far.
        is_caught_up: whether the last step left nothing that was recorded before it.
    """

    def __init__(
        self, folder: RunDir, journal: Journal, client: MlflowClient | None = None
    ) -> None:
        self.folder, self.journal, self.run_id = folder, journal, folder.run_id
        self.error, self.has_permanent_error = "", False
        self.sent, self.is_caught_up = Counts(0, 0), False
        self._audits = 0
        self._client = client
        self._delay = FIRST_DELAY

    @property
    def client(self) -> MlflowClient:
        """The client, connected on first use."""
        if self._client is None:
            self._client = client_of()
        return self._client

    @property
    def place(self) -> str:
        """The tracking server in messages, without passwords."""
        return f"tracking server {public_uri(mlflow.get_tracking_uri())}"

    def step(self) -> bool:
        """Delivers a batch of metrics and an outbox entry; returns whether anything was delivered."""
        self.error, self.has_permanent_error = "", False
        before = self.sent
        # Both each time: in a fast training there are always new metrics.
        arrived = [self.attempt(send) for send in (self._metrics, self._item) if not self.error]
        if any(arrived):
            self._delay = FIRST_DELAY
        new = self.sent - before
        self.is_caught_up = not self.error and new.points < BATCH_METRICS and not new.items
        return any(arrived)

    def pause(self) -> float:
        """Seconds until the next attempt after an error: exponential backoff with jitter."""
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return self._delay * random.uniform(0.5, 1.0)

    def is_complete(self) -> bool:
        """Whether all metrics and outbox entries were delivered or refused; excludes the status."""
        waiting = self.journal.waiting()
        return waiting["metrics"] == 0 and waiting["items"] == 0

    def is_delivered(self, status: EndStatus, error: str) -> bool:
        """Whether everything was delivered, nothing refused, and the status is set."""
        is_set = self.journal.fact("status_delivered") == [status, error]
        return is_set and not any(self.journal.waiting().values())

    def set_running(self) -> bool:
        """Sets the status to RUNNING; a resumed run has an earlier final status."""
        return self.attempt(self._send_running)

    def set_status(self, status: EndStatus, error: str = "") -> bool:
        """Sets the run's final status once; returns whether it was delivered."""
        if self.journal.fact("status_delivered") == [status, error]:
            return True
        return self.attempt(lambda: self._send_ended(status, error))

    def tag(self, key: str, value: str) -> bool:
        """Sets a tag, without retries."""

        def send() -> bool:
            self.client.set_tag(self.run_id, key, value)
            return True

        return self.attempt(send)

    def attempt(self, send: Callable[[], bool]) -> bool:
        """Calls `send` and returns its result; on an exception sets `error` and returns False."""
        try:
            return send()
        except Exception as error:  # network, server and disk errors may be temporary
            self.error = describe_error(error)
            self.has_permanent_error = is_permanent(error)
            return False

    def _send_running(self) -> bool:
        self.journal.set_fact("status_delivered", None)
        self.client.update_run(self.run_id, status="RUNNING")
        return True

    def _send_ended(self, status: EndStatus, error: str) -> bool:
        ended_ms = self.journal.fact("ended_ms", now_ms())
        end_run(self.client, self.run_id, status, error, ended_ms)
        self.journal.set_fact("status_delivered", [status, error])
        return True

    def _metrics(self) -> bool:
        points, last_id = self.journal.undelivered_metrics(BATCH_METRICS)
        if not points:
            return False
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        # A point lost in a power loss would be sent again with another timestamp.
        self.journal.sync()
        self.client.log_batch(self.run_id, metrics=metrics)
        self.journal.acknowledge_metrics(last_id)
        self.sent = Counts(self.sent.points + len(points), self.sent.items)
        return True

    def _item(self) -> bool:
        item = self.journal.next_item()
        if item is None:
            return False
        try:
            _HANDLERS[item.kind](self, item)
        except (MlflowException, FileNotFoundError, CheckpointError) as error:
            if isinstance(error, MlflowException) and not is_permanent(error):
                raise
            self.journal.settle(item, refused=f"{_name(item)}: {describe_error(error)}")
            return True
        self.journal.settle(item)
        self.sent = Counts(self.sent.points, self.sent.items + 1)
        return True

    def _send_tags(self, item: Item) -> None:
        entries = [RunTag(key, str(value)) for key, value in item.payload["tags"].items()]
        self.client.log_batch(self.run_id, tags=entries)

    def _send_params(self, item: Item) -> None:
        """Logs the params that the run does not have; those that it has cannot be changed."""
        stored = self.client.get_run(self.run_id).data.params
        missing = [(k, v) for k, v in item.payload["params"].items() if k not in stored]
        for first in range(0, len(missing), BATCH_PARAMS):
            chunk = [Param(key, text) for key, text in missing[first : first + BATCH_PARAMS]]
            self.client.log_batch(self.run_id, params=chunk)

    def _send_note(self, item: Item) -> None:
        """Sets the run's description, unless it has one that runback has not written."""
        stored, text = self.client.get_run(self.run_id).data.tags, str(item.payload["text"])
        if new := note_tags(stored, text):
            entries = [RunTag(key, value) for key, value in new.items()]
            self.client.log_batch(self.run_id, tags=entries)

    def _send_artifact(self, item: Item) -> None:
        """Uploads a file; one that was deleted or replaced by a later entry is skipped."""
        file = self.folder.path / item.payload["file"]
        try:
            changed = sha256_of(file) != item.payload["sha256"]
            if not changed:
                self._upload(item)
        except FileNotFoundError:
            if not self.journal.is_superseded(item):
                raise
        else:
            if changed and not self.journal.is_superseded(item):
                raise CheckpointError(f"{file}: damaged or changed since it was written")

    def _upload(self, item: Item) -> None:
        file = self.folder.path / item.payload["file"]
        self.client.log_artifact(self.run_id, str(file), item.payload["artifact_path"] or None)

    def _delete_artifact(self, item: Item) -> None:
        uri = self.client.get_run(self.run_id).info.artifact_uri
        get_artifact_repository(uri).delete_artifacts(item.payload["path"])

    def tidy(self) -> bool:
        """Deletes what repeated requests have made in vain; returns whether that succeeded."""
        return self.attempt(self._tidy)

    def _tidy(self) -> bool:
        from runback.tracking import create_run, registry

        if self.journal.has_posted("model"):
            registry.delete_surplus(self.client, self.run_id)
        create_run.delete_duplicates(self.client, self.folder, self.journal)
        return True

    def audit(self) -> bool:
        """Sends files again that the server does not have although it confirmed them.

        A gateway can answer an upload in the place of the server. Returns whether none was missing.
        """
        if not is_http(self.client.tracking_uri):
            return True
        return self.attempt(self._audit)

    def _audit(self) -> bool:
        if self.journal.fact("audited", 0) == self.journal.last_item():
            return True
        items, self._audits = self.journal.delivered_files(), self._audits + 1
        sizes = artifacts.sizes(
            get_artifact_repository(repeated(self._run).info.artifact_uri),
            {item.payload["artifact_path"] for item in items},
        )
        missing = [item for item in items if self._is_missing(item, sizes)]
        for item in missing if self._audits <= MAX_AUDITS else ():
            self.journal.send_again(item)
        if not missing:
            self.journal.set_fact("audited", self.journal.last_item())
        elif self._audits > MAX_AUDITS:
            self._refuse_missing(missing)
        return not missing

    def _run(self) -> Run:
        return self.client.get_run(self.run_id)

    def _refuse_missing(self, missing: list[Item]) -> None:
        for item in missing:
            reason = "the server has confirmed the upload but does not have the file"
            self.journal.settle(item, refused=f"{_name(item)}: {reason}")

    def _is_missing(self, item: Item, sizes: dict[str, int | None]) -> bool:
        """Whether a file that is still here is not among the artifacts with its size."""
        file = self.folder.path / item.payload["file"]
        path = f"{item.payload['artifact_path']}/{file.name}".lstrip("/")
        return file.is_file() and sizes.get(path, -1) not in (file.stat().st_size, None)

    def show(self) -> bool:
        """Writes the view of the run's experiment in MLflow's UI (`views`); returns whether it is."""
        return self.attempt(self._show)

    def _show(self) -> bool:
        write_view(self.client, self._run().info.experiment_id)
        return True

    def prepare(self) -> bool:
        """Imports the libraries for publishing a model, which takes most of a second."""
        from runback.tracking import registry

        return registry.check_packages()

    def _publish_model(self, item: Item) -> None:
        from runback.tracking import registry  # imported by `prepare`; takes half a second

        mark = {tags.MARK: f"{self.journal.identity()}-{item.id}"}
        payload = {**item.payload, "tags": {**item.payload["tags"], **mark}}
        version = registry.publish(self.client, self.run_id, self.folder.model, payload)
        self.journal.set_fact("model_version", version)


_HANDLERS: dict[str, Callable[[Delivery, Item], None]] = {
    "params": Delivery._send_params,
    "tags": Delivery._send_tags,
    "note": Delivery._send_note,
    "artifact": Delivery._send_artifact,
    "delete": Delivery._delete_artifact,
    "model": Delivery._publish_model,
}


def describe(waiting: dict[str, int]) -> str:
    """The undelivered counts as text."""
    names = {"metrics": "metric points", "items": "files or tags"}
    counts = [f"{waiting[kind]} {name}" for kind, name in names.items() if waiting[kind]]
    if waiting.get("refused"):
        counts.append(f"{waiting['refused']} refused files or tags")
    return " and ".join(counts) or "the final status"


def _name(item: Item) -> str:
    """The name of an entry in messages."""
    payload = item.payload
    return str(payload.get("file") or payload.get("path") or payload.get("register") or item.kind)
