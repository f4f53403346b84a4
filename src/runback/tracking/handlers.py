"""The courier's handlers for the questions of the training process (`messages`)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from runback.errors import RunbackError, TrackingError
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, pending_run_dir, run_dir
from runback.tracking import artifacts, run_tag, tags
from runback.tracking.connection import connect, describe_error, public_uri, repeated, request
from runback.tracking.create_run import create_run, delete_run
from runback.tracking.describe_run import (
    complete_description,
    describe_launch,
    describe_run,
    nest_launch,
)
from runback.tracking.find_run import find_key, find_run, record_of
from runback.tracking.messages import (
    AdoptPoints,
    CreateRun,
    FailRun,
    FetchArtifact,
    FindKey,
    FindRun,
    ListArtifacts,
    NestLaunch,
    Question,
    ReopenRun,
    TakeOverRun,
)
from runback.tracking.reconcile import catch_up
from runback.tracking.record import EndStatus, RunRecord
from runback.tracking.status import fail_run, now_ms, reopen_run


class Handlers:
    """Answers questions.

    Args:
        attach: called with the directory of a run that has become RUNNING, and its courier lock if
            it is already held.
    """

    def __init__(self, attach: Callable[[RunDir, FileLock | None], None]) -> None:
        self._attach = attach
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client, connected on first use, so that usage errors do not wait for a server."""
        if self._client is None:
            self._client = connect()
        return self._client

    def answer(self, question: Question[Any]) -> object:
        """The answer to a question.

        Raises:
            RunbackError: the request failed; other exceptions are converted to TrackingError.
        """
        try:
            return HANDLERS[type(question)](self, question)
        except RunbackError:
            raise
        except Exception as error:  # reported as one sentence by the training process
            raise TrackingError(f"{type(error).__name__}: {describe_error(error)}") from error

    def create_run(self, question: CreateRun) -> str:
        """See `create_run.create_run`; starts the run's delivery."""
        pending = pending_run_dir(question.mark)
        try:
            client = self.client
        except RunbackError:  # no server was asked for a run
            shutil.rmtree(pending.path, ignore_errors=True)
            raise
        lock = FileLock(pending.courier_lock).acquire(f"the delivery of {pending.path.name}")
        place = (question.experiment, question.experiment_id)
        folder = create_run(client, pending, question.description, *place)
        record_start(folder)
        try:
            describe_run(client, folder.run_id, question.description)
        except TrackingError as error:
            if not self._delete(folder, str(error)):
                self._attach(folder, lock)
            raise
        self._attach(folder, lock)
        return folder.run_id

    def take_over_run(self, question: TakeOverRun) -> None:
        """See `describe_run.describe_launch`; starts the run's delivery."""
        folder = run_dir(question.run_id)
        self._start(folder, None)
        try:
            describe_launch(self.client, folder.run_id, question.description)
        except RunbackError as error:
            _record_failure(folder, str(error))
            raise

    def _start(self, folder: RunDir, lock: FileLock | None) -> None:
        record_start(folder)
        self._attach(folder, lock)

    def _delete(self, folder: RunDir, error: str) -> bool:
        """Deletes a run and its folder; if that fails, records FAILED and returns False."""
        try:
            delete_run(self.client, folder.run_id, error)
        except (MlflowException, OSError):
            _record_failure(folder, error)
            return False
        shutil.rmtree(folder.path, ignore_errors=True)
        return True

    def find_run(self, question: FindRun) -> RunRecord:
        """See `find_run.find_run`."""
        return find_run(self.client, question.name)

    def find_key(self, question: FindKey) -> str:
        """See `find_run.find_key`."""
        return find_key(self.client, question.key, question.experiment, question.experiment_id)

    def reopen_run(self, question: ReopenRun) -> None:
        """See `status.reopen_run`; the journal's final status is cleared first.

        If the request fails, the run gets the status back that it had.
        """
        folder, what = run_dir(question.run_id), f"run {question.run_id}"
        before = request(what, lambda: self.client.get_run(question.run_id))
        facts = {**(question.description.facts if question.description else {}), **question.facts}
        new = {**question.tags, **run_tag.merged(before.data.tags, facts)}
        self._start(folder, None)
        try:
            if question.description is not None:
                complete_description(self.client, question.run_id, question.description)
            reopen_run(self.client, question.run_id, new)
        except TrackingError as error:
            _record_former_end(folder, before, str(error))
            raise

    def nest_launch(self, question: NestLaunch) -> None:
        """See `describe_run.nest_launch`."""
        nest_launch(self.client, question.launch_id, question.run_id, question.command)

    def fail_run(self, question: FailRun) -> None:
        """See `status.fail_run`; no effect if a training has begun: the ID may be a mistake."""
        run = repeated(lambda: self.client.get_run(question.run_id))
        if record_of(run).awaits_training:
            repeated(lambda: fail_run(self.client, question.run_id, question.error))

    def fetch_artifact(self, question: FetchArtifact) -> str:
        """See `artifacts.download`."""
        folder = Path(question.folder)
        return str(artifacts.download(self.client, question.run_id, question.path, folder))

    def list_artifacts(self, question: ListArtifacts) -> list[str]:
        """See `artifacts.list_names`."""
        return artifacts.list_names(self.client, question.run_id, question.folder)

    def adopt_points(self, question: AdoptPoints) -> None:
        """See `reconcile.catch_up`."""
        record = find_run(self.client, question.run_id)
        with contextlib.closing(Journal(run_dir(question.run_id).journal)) as journal:
            catch_up(self.client, journal, record)


# `FinishRun` is answered by `courier.Courier`, after the delivery.
HANDLERS: dict[type[Question[Any]], Callable[[Handlers, Any], object]] = {
    CreateRun: Handlers.create_run,
    TakeOverRun: Handlers.take_over_run,
    FindKey: Handlers.find_key,
    FindRun: Handlers.find_run,
    ReopenRun: Handlers.reopen_run,
    NestLaunch: Handlers.nest_launch,
    FailRun: Handlers.fail_run,
    FetchArtifact: Handlers.fetch_artifact,
    ListArtifacts: Handlers.list_artifacts,
    AdoptPoints: Handlers.adopt_points,
}


def record_start(folder: RunDir) -> None:
    """Stores the tracking URI in the journal and clears the final status, for `runback sync`."""
    with contextlib.closing(Journal(folder.journal)) as journal:
        uri = public_uri(mlflow.get_tracking_uri())
        status = {"status": None, "status_delivered": None, "is_assumed": None}
        journal.set_facts({"tracking_uri": uri, **status})
        journal.flush(durable=True)


def _record_former_end(folder: RunDir, before: Run, error: str) -> None:
    """Records the status that a run had before a resume that failed; FAILED if it had not ended."""
    if before.info.status not in get_args(EndStatus):
        return _record_failure(folder, error)
    status = [before.info.status, before.data.tags.get(tags.ERROR, "")]
    with contextlib.closing(Journal(folder.journal)) as journal:
        journal.set_facts({"ended_ms": before.info.end_time or now_ms(), "status": status})
    return None


def _record_failure(folder: RunDir, error: str) -> None:
    with contextlib.closing(Journal(folder.journal)) as journal:
        journal.set_facts({"ended_ms": now_ms(), "status": ["FAILED", error]})
