"""Carries a journal to MLflow. Everything here may be repeated: a second delivery changes nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from runback.durable.home import RunFolder
from runback.durable.journal import Item, Journal
from runback.tracking import registry
from runback.tracking.store import first_line, is_permanent

# MLflow's own limit for a call (mlflow.utils.validation.MAX_METRICS_PER_BATCH).
BATCH_METRICS = 1000
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0


class Delivery:
    """One journal on its way to one run.

    Attributes:
        trouble: why nothing arrives at present, in words; empty while all is well.
    """

    def __init__(self, client: MlflowClient, folder: RunFolder, journal: Journal) -> None:
        self.client, self.folder, self.journal = client, folder, journal
        self.run_id = folder.run_id
        self.trouble = ""
        self._delay = FIRST_DELAY

    def step(self) -> bool:
        """Delivers one batch or one entry; says whether anything was there and arrived."""
        try:
            arrived = self._metrics() or self._item()
        except Exception as error:  # the network, the server, the disk: all of it may pass
            self.trouble = first_line(error)
            return False
        self.trouble, self._delay = "", FIRST_DELAY
        return arrived

    def pause(self) -> float:
        """Seconds until the next try after trouble: exponential, with jitter, at most a few."""
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return self._delay * random.uniform(0.5, 1.0)

    def tag(self, key: str, value: str) -> None:
        """Sets a tag now, or not at all where the server is away."""
        try:
            self.client.set_tag(self.run_id, key, value)
        except Exception as error:  # as in step
            self.trouble = first_line(error)

    def is_complete(self) -> bool:
        """Whether everything in the journal has arrived, apart from the final status."""
        waiting = self.journal.waiting()
        return waiting["metrics"] == 0 and waiting["items"] == 0

    def set_status(self, status: str, error: str = "") -> bool:
        """Sets the run's final status once; says whether the server has it."""
        if self.journal.fact("status_delivered") == [status, error]:
            return True
        end_ms = self.journal.fact("ended_ms", time.time_ns() // 1_000_000)
        try:
            tags = [RunTag("runback.lease", "")]
            tags += [RunTag("runback.error", error[:5000])] if error else []
            self.client.log_batch(self.run_id, tags=tags)
            self.client.set_terminated(self.run_id, status, end_time=end_ms)
        except Exception as failure:  # as in step
            self.trouble = first_line(failure)
            return False
        self.journal.set_fact("status_delivered", [status, error])
        return True

    def _metrics(self) -> bool:
        points, last_id = self.journal.undelivered_metrics(BATCH_METRICS)
        if not points:
            return False
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        self.client.log_batch(self.run_id, metrics=metrics)
        self.journal.acknowledge_metrics(last_id)
        return True

    def _item(self) -> bool:
        item = self.journal.next_item()
        if item is None:
            return False
        try:
            _HANDLERS[item.kind](self, item)
        except (MlflowException, FileNotFoundError) as error:
            if isinstance(error, MlflowException) and not is_permanent(error):
                raise
            self.journal.settle(item, "refused")
            self.journal.set_fact("refusal", f"{item.kind} {item.payload}: {first_line(error)}")
            return True
        self.journal.settle(item)
        return True

    def _send_tags(self, item: Item) -> None:
        tags = [RunTag(key, str(value)) for key, value in item.payload["tags"].items()]
        self.client.log_batch(self.run_id, tags=tags)

    def _send_artifact(self, item: Item) -> None:
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
    return f"{waiting['metrics']} metric points and {waiting['items']} files or tags"
