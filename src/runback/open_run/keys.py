"""Keys: names under which an unfinished run is found again by the command that began it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from runback.errors import UsageError
from runback.limits import MAX_TAG, text_problem
from runback.storage.lock import FileLock
from runback.storage.paths import key_lock, require_home
from runback.tracking.client import CourierClient
from runback.tracking.messages import FindKey, FindRun
from runback.tracking.record import RunRecord


def key_of(given: str | None) -> str:
    """The key that was given, or else RUNBACK_KEY; empty for none.

    Raises:
        UsageError: the store cannot search for it.
    """
    key = os.environ.get("RUNBACK_KEY", "") if given is None else given
    problem = text_problem(key, MAX_TAG) or ("contains a quotation mark" if "'" in key else "")
    if problem:
        raise UsageError(f"key {key[:80]!a}: {problem}")
    return key


def holding_key(key: str, experiment: str = "") -> AbstractContextManager[object]:
    """Holds a key, so that two processes that start it at once do not both begin a run.

    The lock is a file in RUNBACK_HOME: processes with other folders are not excluded.

    Raises:
        RunHeldError: another process holds it.
        UsageError: RUNBACK_HOME is not writable.
    """
    if not key:
        return nullcontext()
    require_home()
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    scope = [experiment, *(os.environ.get(name, "") for name in names)]
    return FileLock(key_lock("\0".join([key, *scope]))).acquire(f"the key {key}")


def earlier_run(
    courier: CourierClient, run_id: str, key: str, experiment: str = "", experiment_id: str = ""
) -> tuple[str, RunRecord | None]:
    """The run that a command continues: the given one, else the newest unfinished one with its key.

    Args:
        courier: asks the tracking server.
        run_id: of the run to continue, or of one that a launcher has created; empty for none.
        key: empty for none.
        experiment: a name; by default the one of the environment.
        experiment_id: of an experiment, in the place of a name.

    Returns:
        Its ID, empty if there is none, and its record, None if it has not been begun yet.

    Raises:
        UsageError: there is no run with the ID.
        TrackingError: the server is unreachable.
    """
    if not run_id and key:
        run_id = courier.ask(FindKey(key, experiment, experiment_id))
    record = courier.ask(FindRun(run_id)) if run_id else None
    return run_id, record if record is not None and record.tags.is_described else None
