"""Keys: names under which an unfinished run is found again by the command that began it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from runback.errors import UsageError
from runback.limits import MAX_TAG, text_problem
from runback.storage.lock import FileLock
from runback.storage.paths import key_lock, require_home
from runback.tracking.client import CourierClient
from runback.tracking.messages import FindKey


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


def unfinished_run(
    courier: CourierClient, key: str, experiment: str = "", experiment_id: str = ""
) -> str:
    """The ID of the newest unfinished run with a key in an experiment; empty if there is none.

    Args:
        courier: asks the tracking server.
        key: empty for none.
        experiment: a name; by default the one of the environment.
        experiment_id: of an experiment, in the place of a name.

    Raises:
        TrackingError: the server is unreachable.
    """
    return courier.ask(FindKey(key, experiment, experiment_id)) if key else ""
