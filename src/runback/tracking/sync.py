"""`runback sync`: the courier's work, for runs whose training is over."""

from __future__ import annotations

from runback.durable.home import RunFolder, known_runs
from runback.durable.journal import Journal
from runback.durable.lock import FileLock
from runback.errors import RunNotFoundError
from runback.progress import say
from runback.tracking import courier
from runback.tracking.store import connect


def sync(run: str) -> dict[str, int]:
    """Delivers what is left in the journals of all runs here, or of one.

    Safe at any time, twice, and beside a live training or courier, which keeps its run to itself.

    Args:
        run: a run ID or a unique prefix of one; empty for all runs.

    Returns:
        `runs` looked at, `delivered` completely, `busy` with a process of their own, and how many
        points and entries are still `waiting`.

    Raises:
        RunNotFoundError: no journal here for that run.
        TrackingError: the server is away.
    """
    folders = [folder for folder in known_runs() if folder.run_id.startswith(run)]
    if run and not folders:
        raise RunNotFoundError(f"no journal of run {run!r} here; RUNBACK_HOME tells where they are")
    counts = {"runs": len(folders), "delivered": 0, "busy": 0, "waiting": 0}
    for folder in folders:
        _sync_one(folder, counts)
    return counts


def _sync_one(folder: RunFolder, counts: dict[str, int]) -> None:
    lock = FileLock(folder.courier_lock)
    if not FileLock(folder.lock).is_free() or not lock.try_acquire():
        say(f"run {folder.run_id} has a process of its own that delivers")
        counts["busy"] += 1
        return
    with lock:
        journal = Journal(folder.journal)
        uri, done = journal.fact("tracking_uri"), journal.fact("status_delivered")
        waiting = sum(journal.waiting()[kind] for kind in ("metrics", "items"))
        journal.close()
        if (not waiting and done) or (uri and courier.deliver(folder, connect(uri), None)):
            counts["delivered"] += 1
        else:
            counts["waiting"] += max(1, waiting)
