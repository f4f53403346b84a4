"""`runback sync`: the courier's work, for runs whose training is over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from runback.console.progress import say
from runback.errors import JournalError, RunNotFoundError, TrackingError, UsageError
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, known_run_dirs
from runback.tracking import courier, create_run, runs
from runback.tracking.connection import asked, connect, describe_error, uri_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sync(run: str = "") -> dict[str, int]:
    """Delivers what is left in the journals of all runs here, or of one.

    Safe at any time, twice, and beside a live training or courier, which keeps its run to itself.
    A run whose training and courier both died is found out and becomes FAILED; one that was made
    for a training which never got it is deleted.

    Args:
        run: a run ID or a unique prefix of one, in any form that names a run; empty for all runs.

    Returns:
        `runs` looked at, `delivered` completely, `busy` with a process of their own, and how many
        points and entries are still `waiting`.

    Raises:
        RunNotFoundError: no journal here for that run, or for several.
    """
    folders = _chosen(run) if run else known_run_dirs()
    counts = {"runs": len(folders), "delivered": 0, "busy": 0, "waiting": 0}
    servers = _Servers()
    if not run:
        counts["waiting"] += create_run.put_right(servers.client)
    for folder in folders:
        try:
            _sync_one(folder, servers, counts)
        except (JournalError, TrackingError, UsageError) as error:
            say(f"run {folder.run_id}: {describe_error(error)}")
            counts["waiting"] += max(1, _left(folder))
    return counts


class _Servers:
    """A connection for each server, asked for once: one that is away is not waited for again."""

    def __init__(self) -> None:
        self._known: dict[str, MlflowClient | Exception] = {}

    def client(self, place: str | None) -> MlflowClient:
        """The client for a place that a journal names."""
        uri = uri_of(place)
        if uri not in self._known:
            try:
                self._known[uri] = connect(uri)
            except (TrackingError, UsageError) as error:
                self._known[uri] = error
        found = self._known[uri]
        if isinstance(found, Exception):
            raise found
        return found


def _chosen(run: str) -> list[RunDir]:
    """The folder of one run, by its ID or a prefix; other names are looked up on the server."""
    if run == "latest" or run.startswith("models:/"):
        run = runs.find_run(connect(), run).run_id
    name = run.removeprefix("runs:/").split("/")[0]
    found = [folder for folder in known_run_dirs() if folder.run_id.startswith(name)]
    exact = [folder for folder in found if folder.run_id == name]
    if not found:
        raise RunNotFoundError(f"no journal of run {run!r} here; RUNBACK_HOME tells where they are")
    if len(found) > 1 and not exact:
        ids = ", ".join(folder.run_id for folder in found[:4])
        raise RunNotFoundError(f"{len(found)} runs begin with {run!r}: {ids}; give more of the ID")
    return exact or found


def _sync_one(folder: RunDir, servers: _Servers, counts: dict[str, int]) -> None:
    lock = FileLock(folder.courier_lock)
    if not lock.try_acquire():
        _say_busy(folder, counts)
        return
    with lock, contextlib.closing(Journal(folder.journal)) as journal:
        begun = journal.fact("tracking_uri") is not None  # or the run's last end is elsewhere
        if (
            begun
            and journal.fact("status") is None
            and not courier.note_sudden_end(folder, journal)
        ):
            _say_busy(folder, counts)
            return
        journal.retry_refused()
        if not begun or _is_delivered(journal) or _delivered_now(folder, journal, servers):
            counts["delivered"] += 1
            return
    counts["waiting"] += max(1, _left(folder))


def _delivered_now(folder: RunDir, journal: Journal, servers: _Servers) -> bool:
    client = servers.client(journal.fact("tracking_uri"))
    identity = journal.identity()
    run = asked(f"run {folder.run_id}", lambda: client.get_run(folder.run_id))
    if run.data.tags.get("runback.journal", identity) != identity:
        say(f"run {folder.run_id} has been resumed elsewhere, which trained again what waits here")
        return True
    return courier.deliver(folder, journal, client)


def _say_busy(folder: RunDir, counts: dict[str, int]) -> None:
    say(f"run {folder.run_id} has a process of its own that delivers")
    counts["busy"] += 1


def _is_delivered(journal: Journal) -> bool:
    return not any(journal.waiting().values()) and (
        journal.fact("status_delivered") == journal.fact("status")
    )


def _left(folder: RunDir) -> int:
    """Points and entries that have not arrived; 0 where the journal cannot tell."""
    try:
        with contextlib.closing(Journal(folder.journal)) as journal:
            return sum(journal.waiting().values())
    except JournalError:
        return 0
