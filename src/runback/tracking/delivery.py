"""Carries a journal to MLflow. Everything here may be repeated: a second delivery changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from runback.errors import CheckpointError
from runback.storage.atomic import sha256_of
from runback.storage.journal import Item, Journal
from runback.storage.paths import RunDir
from runback.tracking import registry
from runback.tracking.connection import client_of, describe_error, is_permanent
from runback.tracking.runs import end_run, now_ms

# MLflow's own limit for a call (mlflow.utils.validation.MAX_METRICS_PER_BATCH).
BATCH_METRICS = 1000
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


class Delivery:
    """One journal on its way to one run.

    Args:
        folder: of the run.
        journal: of the run.
        client: of the server that has the run; None to connect on the way.

    Attributes:
        trouble: why nothing arrives at present, in words; empty while all is well.
        hopeless: whether the server has refused for good what waits, so that waiting is no use.
    """

    def __init__(
        self, folder: RunDir, journal: Journal, client: MlflowClient | None = None
    ) -> None:
        self.folder, self.journal, self.run_id = folder, journal, folder.run_id
        self.trouble, self.hopeless = "", False
        self._client = client
        self._delay = FIRST_DELAY

    @property
    def client(self) -> MlflowClient:
        """Connected on first use, where a server that is away is a trouble like any other."""
        if self._client is None:
            self._client = client_of()
        return self._client

    def step(self) -> bool:
        """Delivers one batch and one entry; says whether anything was there and arrived."""
        self.trouble, self.hopeless = "", False
        # Both each time: a fast training's metrics never end, and its checkpoints must not wait.
        arrived = [self.tried(send) for send in (self._metrics, self._item) if not self.trouble]
        if any(arrived):
            self._delay = FIRST_DELAY
        return any(arrived)

    def pause(self) -> float:
        """Seconds until the next try after trouble: exponential, with jitter, at most a few."""
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return self._delay * random.uniform(0.5, 1.0)

    def is_complete(self) -> bool:
        """Whether nothing waits any more, apart from the final status; what was refused does not."""
        waiting = self.journal.waiting()
        return waiting["metrics"] == 0 and waiting["items"] == 0

    def set_running(self) -> bool:
        """Shows the run as RUNNING: it may have ended once, and have been resumed."""
        return self.tried(self._show_running)

    def set_status(self, status: str, error: str = "") -> bool:
        """Sets the run's final status once; says whether the server has it."""
        if self.journal.fact("status_delivered") == [status, error]:
            return True
        return self.tried(lambda: self._show_ended(status, error))

    def tag(self, key: str, value: str) -> bool:
        """Sets a tag now, or not at all where the server is away."""

        def send() -> bool:
            self.client.set_tag(self.run_id, key, value)
            return True

        return self.tried(send)

    def tried(self, send: Callable[[], bool]) -> bool:
        """Whether something worked; if it raised, `trouble` says why."""
        try:
            return send()
        except Exception as error:  # the network, the server, the disk: all of it may pass
            self.trouble = describe_error(error)
            self.hopeless = is_permanent(error)
            return False

    def _show_running(self) -> bool:
        self.journal.set_fact("status_delivered", None)
        self.client.update_run(self.run_id, status="RUNNING")
        return True

    def _show_ended(self, status: str, error: str) -> bool:
        ended_ms = self.journal.fact("ended_ms", now_ms())
        end_run(self.client, self.run_id, status, error, ended_ms)
        self.journal.set_fact("status_delivered", [status, error])
        return True

    def _metrics(self) -> bool:
        points, last_id = self.journal.undelivered_metrics(BATCH_METRICS)
        if not points:
            return False
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        # A point that a power cut took from the journal would be sent again with another timestamp.
        self.journal.sync()
        self.client.log_batch(self.run_id, metrics=metrics)
        self.journal.acknowledge_metrics(last_id)
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
        return True

    def _send_tags(self, item: Item) -> None:
        tags = [RunTag(key, str(value)) for key, value in item.payload["tags"].items()]
        self.client.log_batch(self.run_id, tags=tags)

    def _send_artifact(self, item: Item) -> None:
        """Sends the file that was noted; one that was pruned or replaced since is passed over."""
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

    def _publish_model(self, item: Item) -> None:
        version = registry.publish(self.client, self.run_id, self.folder.model, item.payload)
        self.journal.set_fact("model_version", version)


_HANDLERS: dict[str, Callable[[Delivery, Item], None]] = {
    "tags": Delivery._send_tags,
    "artifact": Delivery._send_artifact,
    "delete": Delivery._delete_artifact,
    "model": Delivery._publish_model,
}


def describe(waiting: dict[str, int]) -> str:
    """What has not arrived, in words."""
    names = {"metrics": "metric points", "items": "files or tags"}
    found = [f"{waiting[kind]} {name}" for kind, name in names.items() if waiting[kind]]
    return " and ".join(found) or "the final status"


def _name(item: Item) -> str:
    """An entry in words."""
    payload = item.payload
    return str(payload.get("file") or payload.get("path") or payload.get("register") or item.kind)
