"""`runback sync`: the courier's work, for runs whose training is over."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runback.console.progress import say
from runback.errors import JournalError, RunNotFoundError, TrackingError, UsageError
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, known_run_dirs, pending_run_dirs
from runback.tracking import attached_run, create_run
from runback.tracking.connection import connect, describe_error, full_uri, request
from runback.tracking.find_run import find_run, record_of
from runback.tracking.reconcile import adopt_status, catch_up

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class SyncResult:
    """The result of a delivery.

    Attributes:
        runs: number of journals.
        delivered: number of runs whose rest was delivered now.
        busy: number of runs that another process trains or delivers.
        waiting: number of undelivered points and entries.
    """

    runs: int
    delivered: int
    busy: int
    waiting: int

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)


def sync(run: str = "") -> SyncResult:
    """Delivers the undelivered entries in the local journals of all runs, or of one.

    Idempotent, and safe during a training: runs of live processes are skipped. A run whose training
    and courier were both killed becomes FAILED. A run that was created but never trained is deleted.

    Args:
        run: RUN in any of its forms; empty for all runs.

    Raises:
        RunNotFoundError: no local journal matches, or more than one.
    """
    servers = _Servers()
    waiting = 0 if run else sum(_lost_runs_left(folder, servers) for folder in pending_run_dirs())
    folders = _chosen(run) if run else known_run_dirs()
    outcomes = [_synced(folder, servers) for folder in folders]
    return SyncResult(
        runs=len(folders),
        delivered=sum(outcome is _Delivery.DONE for outcome in outcomes),
        busy=sum(outcome is _Delivery.BUSY for outcome in outcomes),
        waiting=waiting + sum(outcome for outcome in outcomes if isinstance(outcome, int)),
    )


class _Delivery(enum.Enum):
    """The result for one run without undelivered entries."""

    NOTHING = enum.auto()
    DONE = enum.auto()
    BUSY = enum.auto()


class _Servers:
    """One connection, or connection error, for each server."""

    def __init__(self) -> None:
        self._known: dict[str, MlflowClient | Exception] = {}

    def client(self, stored_uri: str | None) -> MlflowClient:
        """The client for a URI from a journal."""
        uri = full_uri(stored_uri)
        if uri not in self._known:
            try:
                self._known[uri] = connect(uri)
            except (TrackingError, UsageError) as error:
                self._known[uri] = error
        known = self._known[uri]
        if isinstance(known, Exception):
            raise known
        return known


def _chosen(run: str) -> list[RunDir]:
    """The folder of one run, by its ID or a prefix; other forms are resolved on the server."""
    if run == "latest" or run.startswith("models:/"):
        run = find_run(connect(), run).run_id
    name = run.removeprefix("runs:/").split("/")[0]
    matches = [folder for folder in known_run_dirs() if folder.run_id.startswith(name)]
    exact = [folder for folder in matches if folder.run_id == name]
    if not matches:
        raise RunNotFoundError(f"no journal of run {run!r} here; check RUNBACK_HOME")
    if len(matches) > 1 and not exact:
        ids = ", ".join(folder.run_id for folder in matches[:4])
        raise RunNotFoundError(
            f"{len(matches)} runs begin with {run!r}: {ids}; give more of the ID"
        )
    return exact or matches


def _lost_runs_left(folder: RunDir, servers: _Servers) -> int:
    """Deletes the runs of a pending directory; returns 1 on failure, else 0."""
    locks = FileLock(folder.lock), FileLock(folder.courier_lock)
    try:
        with locks[0], locks[1]:
            if not (locks[0].try_acquire() and locks[1].try_acquire()):
                return 0  # used by a training that is creating its run
            create_run.delete_lost_runs(folder, servers.client)
    except (JournalError, TrackingError, UsageError) as error:
        say(describe_error(error))
        return 1
    return 0


def _synced(folder: RunDir, servers: _Servers) -> _Delivery | int:
    """Delivers a run; returns the number of undelivered points and entries, if any."""
    try:
        delivery = _delivered(folder, servers)
        return max(1, _left(folder)) if delivery is None else delivery
    except (JournalError, TrackingError, UsageError) as error:
        say(f"run {folder.run_id}: {describe_error(error)}")
        return max(1, _left(folder))


def _delivered(folder: RunDir, servers: _Servers) -> _Delivery | None:
    """Delivers a run; returns None if something is undelivered."""
    lock = FileLock(folder.courier_lock)
    if not lock.try_acquire():
        return _busy(folder)
    with lock, contextlib.closing(Journal(folder.journal)) as journal:
        begun = journal.fact("tracking_uri") is not None  # else the run ended with another journal
        if begun and not attached_run.record_unreported_end(folder, journal):
            return _busy(folder)
        journal.retry_refused()
        if not begun or _is_delivered(journal):
            return _Delivery.NOTHING
        return _delivered_now(folder, journal, servers)


def _delivered_now(folder: RunDir, journal: Journal, servers: _Servers) -> _Delivery | None:
    client = servers.client(journal.fact("tracking_uri"))
    identity = journal.identity()
    run = request(f"run {folder.run_id}", lambda: client.get_run(folder.run_id))
    record = record_of(run)
    if record.tags.journal not in ("", identity):
        say(f"run {folder.run_id} was resumed with another journal; local points are obsolete")
        return _Delivery.NOTHING
    was_behind = catch_up(client, journal, record)
    if was_behind or journal.fact("is_assumed"):  # an older copy of the journal
        adopt_status(journal, run)
    return _Delivery.DONE if attached_run.deliver(folder, journal, client) else None


def _busy(folder: RunDir) -> _Delivery:
    say(f"run {folder.run_id} is delivered by another process")
    return _Delivery.BUSY


def _is_delivered(journal: Journal) -> bool:
    return (
        not any(journal.waiting().values())
        and journal.fact("status_delivered") == journal.fact("status")
        and journal.fact("unsettled_mark") is None
    )


def _left(folder: RunDir) -> int:
    """The number of undelivered points and entries; 0 if the journal cannot be read."""
    try:
        with contextlib.closing(Journal(folder.journal)) as journal:
            return sum(journal.waiting().values())
    except JournalError:
        return 0
