"""Makes a run in MLflow: exactly one, also where the server's answer is lost on the wire.

A server can make a run whose ID never arrives; who asks again, as MLflow's HTTP client and gateways
do, gets a second one, and the first is RUNNING for ever. So a run carries a mark of ours from its
first moment: one that is found by it is taken, and any other is deleted. Until a journal says where
the run is, a note in RUNBACK_HOME holds the mark, so that `runback sync` can put right what a
server that went away, or a courier that was killed, has left in between.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from runback.console.progress import say
from runback.environment import git_commit
from runback.errors import RunbackError, TrackingError, UsageError
from runback.storage.atomic import write_bytes
from runback.storage.lock import FileLock
from runback.storage.paths import home, run_dir
from runback.tracking.connection import (
    describe_error,
    http_settings,
    is_permanent,
    is_refusal,
    place_of,
)
from runback.tracking.runs import awaits_training, fail_run
from runback.tracking.timeouts import connect_seconds

TAG_OPENING = "runback.opening"
PREFIX = "opening-"
# A server whose answer was lost may still be writing the run; it is looked for this long.
SETTLE_SECONDS = 2.0
LOOK_SECONDS = 0.2
# No server makes a run this long after it was asked to.
FORGET_SECONDS = 600.0


@contextmanager
def new_run(client: MlflowClient) -> Iterator[str]:
    """Creates a run in the experiment that the environment names, for a block that takes it over.

    Yields:
        Its ID. Where the block fails, or where nobody knows whether there is a run or two, the
        note stays for `runback sync`.

    Raises:
        UsageError: the environment names no experiment that can be used.
        TrackingError: the server is away or refuses.
        CheckpointError: the note cannot be written; no run is made.
    """
    experiment_id, mark = _experiment_id(client), uuid.uuid4().hex
    note = home() / f"{PREFIX}{mark}.json"
    with _lock(note).acquire("a run that is being opened"):
        where = {"tracking_uri": place_of(client.tracking_uri), "experiment": experiment_id}
        write_bytes(note, json.dumps(where).encode())
        run_id, alone = _made(client, experiment_id, note)
        yield run_id
        if alone:
            _forget(note)


def put_right(client_of: Callable[[str], MlflowClient]) -> int:
    """Deletes the runs that were made for a training here which never got them.

    Args:
        client_of: gives the client for the place that a note names.

    Returns:
        How many notes wait for a server that is away.
    """
    return sum(not _put_right(note, client_of) for note in home().glob(f"{PREFIX}*.json"))


def _made(client: MlflowClient, experiment_id: str, note: Path) -> tuple[str, bool]:
    """The ID of a new run, and whether it is sure to be the only one."""
    mark = _mark(note)
    try:
        run = client.create_run(experiment_id, tags={**_source_tags(), TAG_OPENING: mark})
    except Exception as error:  # also an answer that is cut off, or a gateway's page
        if is_refusal(error):
            _forget(note)
            raise TrackingError(f"a run cannot be made: {describe_error(error)}") from error
        found = _found_in_time(client, experiment_id, mark)
        if not found:
            raise TrackingError(
                f"a run cannot be made: {describe_error(error)}; "
                "if the server has made it all the same, runback sync deletes it"
            ) from error
        run = found[0]
    run_id = str(run.info.run_id)
    try:
        found = _marked(client, experiment_id, mark)
        _delete(client, [other for other in found if other.info.run_id != run_id])
    except Exception:  # the wire is a bad one: sync looks again
        return run_id, False
    return run_id, True


def _found_in_time(client: MlflowClient, experiment_id: str, mark: str) -> list[Run]:
    """The marked runs, as soon as there is one; empty if the server shows none in time."""
    deadline = time.monotonic() + connect_seconds()
    seconds = str(max(1, round(connect_seconds())))
    settled = False
    while True:
        with contextlib.suppress(Exception), http_settings(MAX_RETRIES="0", TIMEOUT=seconds):
            if found := _marked(client, experiment_id, mark):
                return found
            if not settled:
                settled, deadline = True, min(deadline, time.monotonic() + SETTLE_SECONDS)
        if time.monotonic() >= deadline:
            return []
        time.sleep(LOOK_SECONDS)


def _marked(client: MlflowClient, experiment_id: str, mark: str) -> list[Run]:
    query = f"tags.`{TAG_OPENING}` = '{mark}'"
    return list(client.search_runs([experiment_id], filter_string=query))


def _delete(client: MlflowClient, surplus: list[Run]) -> None:
    """Ends and deletes runs that were made in vain."""
    for run in surplus:
        fail_run(client, run.info.run_id, "made in vain: the server's answer was lost")
        client.delete_run(run.info.run_id)


def _put_right(note: Path, client_of: Callable[[str], MlflowClient]) -> bool:
    """Whether a note is settled, or in the hands of a courier that opens its run just now."""
    lock = _lock(note)
    if not lock.try_acquire():
        return True
    with lock:
        gone = not note.exists()  # another sync was quicker
        found = [] if gone else _lost_runs(note, client_of)
        if found is None:
            return False
        if gone or found or time.time() - note.stat().st_mtime > FORGET_SECONDS:
            _forget(note)
    return True


def _lost_runs(note: Path, client_of: Callable[[str], MlflowClient]) -> list[Run] | None:
    """The runs that a note is about, those of nobody deleted now; None if they cannot be seen."""
    where = json.loads(note.read_bytes())
    try:
        client = client_of(where["tracking_uri"])
        found = _marked(client, where["experiment"], _mark(note))
        _delete(client, [run for run in found if _is_untouched(run)])
    except (RunbackError, MlflowException) as error:
        if is_permanent(error):  # no such experiment any more
            return []
        say(f"a run may be left half-made, which cannot be seen now: {describe_error(error)}")
        return None
    return found


def _is_untouched(run: Run) -> bool:
    """Whether no training has taken a run over."""
    return awaits_training(run) and not run_dir(run.info.run_id).journal.exists()


def _mark(note: Path) -> str:
    return note.stem.removeprefix(PREFIX)


def _lock(note: Path) -> FileLock:
    return FileLock(note.with_suffix(".lock"))


def _forget(note: Path) -> None:
    note.unlink(missing_ok=True)
    note.with_suffix(".lock").unlink(missing_ok=True)


def _experiment_id(client: MlflowClient) -> str:
    """As mlflow chooses: MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME (created), or the default.

    Raises:
        UsageError: there is no such experiment, or it has been deleted.
    """
    by_id, name = (os.environ.get(f"MLFLOW_EXPERIMENT_{what}") for what in ("ID", "NAME"))
    if by_id:
        return _usable("ID", by_id, lambda: client.get_experiment(by_id))
    if name:
        return _usable("NAME", name, lambda: _by_name(client, name))
    return "0"


def _usable(what: str, value: str, find: Callable[[], Experiment]) -> str:
    """The ID of the experiment that an environment variable names."""
    try:
        found = find()
    except MlflowException as error:
        kind = UsageError if is_permanent(error) else TrackingError
        raise kind(f"MLFLOW_EXPERIMENT_{what} {value!r}: {describe_error(error)}") from error
    if found.lifecycle_stage != "active":
        raise UsageError(f"MLFLOW_EXPERIMENT_{what} {value!r}: the experiment has been deleted")
    return str(found.experiment_id)


def _by_name(client: MlflowClient, name: str) -> Experiment:
    """An experiment that is made if need be; `mlflow.set_experiment` would also change the process."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found
    try:
        return client.get_experiment(client.create_experiment(name))
    except MlflowException:  # another process was quicker
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found


def _source_tags() -> dict[str, str]:
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": "runback",
        "mlflow.source.type": "LOCAL",
    }
    commit = git_commit(Path.cwd())
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
