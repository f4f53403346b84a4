"""Run: the lifecycle of an open run, from its creation to the record of its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runback.console.progress import say
from runback.errors import Interrupted, JournalError, RunbackError, UsageError
from runback.open_run.anomalies import Anomalies, condition_changes
from runback.open_run.checkpoints import Checkpointing, RunCheckpoints
from runback.open_run.restore import (
    GENERATORS,
    STATE_DICT,
    CaughtUp,
    Restored,
    catch_up,
    missing_checkpoints,
    restore,
)
from runback.open_run.signals import StopSignals
from runback.seeding import generator_states
from runback.stateful import Position, Stateful, snapshot
from runback.storage import lease
from runback.storage.atomic import make_folder, write_bytes
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, move_pending, pending_run_dir, require_home, run_dir
from runback.tracking import links, run_tag, tags
from runback.tracking.client import CourierClient
from runback.tracking.messages import (
    CreateRun,
    FetchArtifact,
    FindRun,
    ReopenRun,
    RunDescription,
    TakeOverRun,
)
from runback.tracking.record import EndStatus, RunRecord

# Of which the places are recorded.
MAX_RESUMES = 200


class Run:
    """The open run: first *held* (locked, nothing changed), then *live*, then ended.

    A new run is held in a pending directory, so that the files needed to rebuild it are in its
    outbox before its ID is visible. As a context manager it ends a live run as FAILED if an
    exception leaves the block, or as KILLED if a signal was received, and releases the lock.

    Attributes:
        folder: local files.
        record: the run on the tracking server; None for a new one.
        state: plain values stored in each checkpoint.
        checkpointing: checkpoint settings; set before `restore` and before the run goes live.
        changed: the conditions that have changed since the restored checkpoint, in words.
    """

    def __init__(
        self,
        folder: RunDir,
        lock: FileLock,
        courier: CourierClient,
        signals: StopSignals,
        record: RunRecord | None = None,
    ) -> None:
        self.folder, self.record = folder, record
        self.state: dict[str, Any] = {}
        self.checkpointing = Checkpointing()
        self.changed = ""
        self._lock, self._courier, self._signals = lock, courier, signals
        self._kept: dict[str, Stateful] = {}
        self._restored: Restored | None = None
        self._caught_up: CaughtUp | None = None
        self._open_journal: Journal | None = None
        self._checkpoints: RunCheckpoints | None = None
        self._anomalies: Anomalies | None = None
        self._is_requested = self._is_ended = False
        self._resumes: list[int] = []

    @classmethod
    def new(cls, courier: CourierClient, signals: StopSignals, run_id: str = "") -> Run:
        """Holds a run to be created, or an existing one that awaits its training.

        Raises:
            UsageError: RUNBACK_HOME is not writable.
            RunHeldError: another process holds the run.
        """
        require_home()
        folder = run_dir(run_id) if run_id else pending_run_dir()
        make_folder(folder.path)
        return cls(folder, FileLock(folder.lock).acquire(f"run {run_id}"), courier, signals)

    @classmethod
    def hold(cls, courier: CourierClient, signals: StopSignals, run_id: str) -> Run:
        """Holds an existing run to resume it.

        Raises:
            RunHeldError: another process holds it, here or on another machine.
            RunNotFoundError: the run was deleted.
        """
        folder = run_dir(run_id)
        lock = FileLock(folder.lock).acquire(f"run {run_id}")
        try:
            record = courier.ask(FindRun(run_id))  # read under the lock
            record.require_active()
            _require_free(record)
            _take_pending(record.tags.mark, folder)
        except BaseException:
            lock.release()
            raise
        return cls(folder, lock, courier, signals, record)

    @property
    def id(self) -> str:
        """The run's ID; empty while it is pending."""
        return "" if self.folder.is_pending else self.folder.run_id

    @property
    def is_live(self) -> bool:
        """Whether the run is RUNNING and this process trains it."""
        return self._checkpoints is not None and not self._is_ended

    @property
    def journal(self) -> Journal:
        """The run's journal, opened on first use.

        Raises:
            JournalError: the journal cannot be opened.
        """
        if self._open_journal is None:
            self._open_journal = Journal(self.folder.journal, tidy=False)
        return self._open_journal

    # Held

    def keep(self, **objects: Stateful) -> None:
        """Adds named objects whose state is saved in each checkpoint and loaded by `restore`."""
        self._kept.update(objects)

    def restore(self) -> Position | None:
        """Loads the newest valid checkpoint; returns its position, or None if there is none.

        Raises:
            UsageError: an object rejects its state.
        """
        key = self.checkpointing.key(self.folder)
        recorded = self._caught_up.epochs if self._caught_up else None
        self._restored = restore(self.folder, key, self._kept, self._courier, recorded)
        if self._restored is None:
            return None
        self.state.update(self._restored.values)
        self.changed = condition_changes(self._restored.manifest.versions)
        if self.changed:
            say(
                f"warning: since the checkpoint, {self.changed}: "
                "the last bits of the results can differ"
            )
        return self._restored.manifest.position

    def catch_up(self) -> int:
        """Adds missing published points to the journal; returns the last step with metrics."""
        assert self.record is not None
        self._caught_up = catch_up(self.folder, self.record, self._courier)
        return self._caught_up.epochs

    def require_untrained(self) -> None:
        """Refuses to begin again where a checkpoint may be lost; see `catch_up`.

        Raises:
            UsageError: the run has trained; the message names the places without a checkpoint.
        """
        assert self.record is not None and self._caught_up is not None
        caught_up = self._caught_up
        if caught_up.may_have_checkpoints and caught_up.epochs > caught_up.begun:
            raise UsageError(missing_checkpoints(self.folder, self.record, self._caught_up.epochs))

    def post_file(self, file: Path, artifact_path: str) -> None:
        """Adds a file of the run's folder to the outbox, with its digest."""
        self.journal.post_file(self.folder.path, file, artifact_path)

    def fetch(self, path: str) -> None:
        """Downloads an artifact of the run, a file or a folder, into the run's folder.

        Raises:
            TrackingError: no such artifact, or the server is unreachable.
        """
        self._courier.ask(FetchArtifact(self.id, path, str(self.folder.path)))

    def post_json(self, name: str, value: Any) -> None:
        """Adds a JSON artifact at the root of the run."""
        make_folder(self.folder.outbox)
        file = self.folder.outbox / name
        write_bytes(file, (json.dumps(value, sort_keys=True) + "\n").encode())
        self.post_file(file, "")

    # From held to live

    def create(
        self, description: RunDescription, experiment: str = "", experiment_id: str = ""
    ) -> None:
        """Creates the run on the tracking server, or takes the existing one over.

        Args:
            description: of the run.
            experiment: its name; by default the one of the environment.
            experiment_id: of the experiment, in the place of a name.

        Raises:
            UsageError: the experiment in the environment does not exist or is deleted.
            TrackingError: the server is unreachable or rejects the request; no run is left.
        """
        self.journal.flush(durable=True)
        self._close_journal()  # the folder is renamed
        self._is_requested = True
        if self.folder.is_pending:
            mark = self.folder.mark
            run_id = self._courier.ask(CreateRun(mark, description, experiment, experiment_id))
            self.folder = run_dir(run_id)
        else:
            self._courier.ask(TakeOverRun(self.id, description))
        self._go_live()

    def reopen(self, changes: dict[str, str], description: RunDescription) -> None:
        """Sets a resumed run to RUNNING again.

        Args:
            changes: options changed by the resume, as text by name.
            description: of the run, logged if that was interrupted when the run was created.

        Raises:
            UsageError: the changes are too long for a tag; nothing is changed.
            TrackingError: the server is unreachable or rejects the request.
        """
        self._resumes = self._with_this_resume()
        facts: dict[str, run_tag.Entry] = {
            run_tag.CHANGED: changes,
            run_tag.RESUMED: self._resumes,
            run_tag.JOURNAL: self.journal.identity(),
        }
        new_tags = {tags.LEASE: lease.lease(os.getpid())}
        if changes.get("name"):
            new_tags[tags.RUN_NAME] = changes["name"]
        assert self.record is not None
        missing = None if self.record.tags.is_described else description
        self._courier.ask(ReopenRun(self.id, new_tags, facts, missing))
        self._go_live()

    def _with_this_resume(self) -> list[int]:
        """The places of the last resumes, this one included."""
        assert self.record is not None
        epoch = self._restored.manifest.position.epoch if self._restored else 0
        return [*self.record.tags.resumes, epoch][-MAX_RESUMES:]

    def _go_live(self) -> None:
        self._courier.attach(self.id)
        restored = self._restored
        position = restored.manifest.position if restored else None
        self._anomalies = Anomalies(self.journal)
        self._checkpoints = RunCheckpoints(self.folder, self.journal, self.checkpointing, position)
        if restored and not restored.uploaded:  # killed before the upload was queued
            self._checkpoints.post(restored.manifest.file, restored.manifest.manifest_file)

    # Live

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Records the metrics of a completed step in memory, and flushes the journal if due."""
        self.journal.reach(step)  # first: no flush may contain points of a step not reached
        self.journal.record(metrics.items(), step)
        if self.journal.flush_if_due():
            self._courier.restart_if_dead()
            assert self._anomalies is not None
            self._anomalies.report()

    def seen(self) -> str:
        """Where the live run can be seen, as the end of a sentence; empty if no UI is known."""
        known = self.record.experiment_id if self.record else self.journal.fact("experiment_id", "")
        experiment_id = known or os.environ.get("MLFLOW_EXPERIMENT_ID", "")  # of `mlflow run`
        return links.seen(self.journal.fact("tracking_uri", ""), experiment_id, self.id)

    @property
    def resumes(self) -> list[int]:
        """The completed epochs at which the run was resumed, as far as its tag says."""
        return self._resumes

    def waiting(self) -> int:
        """The number of points and files that are not delivered yet."""
        counts = self.journal.waiting()
        return counts["metrics"] + counts["items"]

    def should_advance(self) -> bool:
        """Whether `advance` would save or stop now."""
        return self._signals.should_checkpoint()

    def advance(self, position: Position, *, due: bool = False) -> bool:
        """The safe point of a loop: saves if a checkpoint is due, stops if a signal was received.

        Returns whether a checkpoint was due.

        Args:
            position: of the loop and of the kept objects.
            due: whether the loop requests a checkpoint.

        Raises:
            Interrupted: a signal was received; the checkpoint is on disk.
            CheckpointError, JournalError: a checkpoint could not be written.
        """
        due = due or self._signals.should_checkpoint()
        if due:
            self.checkpoint(position)
        if self._signals.received:
            self.wait()
            raise Interrupted(self.id, self._signals.received)
        return due

    def checkpoint(self, position: Position) -> None:
        """Copies the state, and writes it on a background thread.

        Raises:
            CheckpointError, JournalError: an earlier one could not be written.
        """
        assert self._checkpoints is not None
        if not self._checkpoints.is_saved(position):
            kept = {name + STATE_DICT: snapshot(target) for name, target in self._kept.items()}
            at = {"epoch": position.epoch, "batch": position.batch}
            state = {**self.state, **kept, **at, GENERATORS: generator_states()}
            self._checkpoints.submit(position, state)
        self._signals.checkpointed()

    def wait(self) -> None:
        """Blocks until every checkpoint is on disk and in the outbox."""
        assert self._checkpoints is not None
        self._checkpoints.wait()

    # The end

    def finish(self) -> bool:
        """Ends the run as FINISHED; returns whether everything was delivered."""
        return self.end("FINISHED")

    def end(self, status: EndStatus, error: str = "") -> bool:
        """Ends the run; returns whether everything was delivered. Raises nothing.

        A signal from here on ends the waiting for the delivery, which continues.
        """
        self._signals.defer()
        before = self._signals.received if status == "KILLED" else 0
        return self._end(status, error, leave=lambda: self._signals.received != before)

    def _end_early(self, error: BaseException) -> None:
        """Ends the run as KILLED if a signal was received (it may have killed a loader worker, too),
        else as FAILED.

        Raises:
            Interrupted: a signal was received.
        """
        self._signals.defer()
        before = self._signals.received
        is_failure = isinstance(error, RunbackError) and not isinstance(error, Interrupted)
        if before and not is_failure:
            self._end("KILLED")
            raise Interrupted(self.id, before) from None
        message = f"{type(error).__name__}: {error}"
        self._end("FAILED", message, leave=lambda: self._signals.received != before)

    def _end(
        self, status: EndStatus, error: str = "", leave: Callable[[], bool] = lambda: False
    ) -> bool:
        """Records the final status and waits for the courier; returns whether all was delivered.

        Raises nothing, so that the error that ended the training is not hidden.
        """
        assert self._checkpoints is not None
        self._is_ended = True
        self._checkpoints.close()
        try:
            self._record_end(status, error)
        except JournalError as failure:  # the courier receives the status in a message, too
            say(f"warning: the final status is not in the journal: {failure}")
        return self._courier.finish(self.id, status, error, leave)

    def _record_end(self, status: EndStatus, error: str) -> None:
        assert self._anomalies is not None
        self.journal.flush()
        self._anomalies.report()
        ended_ms = time.time_ns() // 1_000_000
        self.journal.set_facts({"ended_ms": ended_ms, "status": [status, error]})
        self.journal.flush(durable=True)
        self._close_journal()

    def _close_journal(self) -> None:
        if self._open_journal is not None:
            self._open_journal.close()
            self._open_journal = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and self.is_live:
                self._end_early(error)
        finally:
            with contextlib.suppress(JournalError):
                self._close_journal()
            self._lock.release()
            if self.folder.is_pending and not self._is_requested:
                shutil.rmtree(self.folder.path, ignore_errors=True)


def _take_pending(mark: str, folder: RunDir) -> None:
    """Takes over the pending directory of a run that was created, but whose training was killed
    before the directory was renamed.

    Raises:
        RunHeldError: the training is still creating the run.
    """
    pending = pending_run_dir(mark)
    if not mark or folder.journal.exists() or not pending.journal.exists():
        return
    what = f"run {folder.run_id}"
    with FileLock(pending.lock).acquire(what), FileLock(pending.courier_lock).acquire(what):
        move_pending(pending, folder.run_id)


def _require_free(record: RunRecord) -> None:
    """Refuses a run that another machine trains; a damaged lease is no lease."""
    try:
        lease.require_free(record.tags.lease, f"run {record.run_id}")
    except ValueError:
        say(f"warning: run {record.run_id}: tag {tags.LEASE} is damaged, and ignored")
