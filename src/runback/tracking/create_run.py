"""Creates exactly one run in MLflow, also if the server's response is lost.

A server can create a run and lose the response. A retry, as by MLflow's HTTP client and by
gateways, then creates a second run, and the first stays RUNNING. So the pending directory is made
before the run, with a unique mark that the run has in a tag: a run found by its mark is used, the
request is repeated only if none is found, and duplicates are deleted, at once and when the run has
ended. If the courier is killed or the server fails in between, `runback sync` completes the
deletion from the pending directory.
"""

from __future__ import annotations

import contextlib
import getpass
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from runback.environment import git_commit
from runback.errors import RunbackError, TrackingError
from runback.storage.journal import Journal
from runback.storage.paths import RunDir, run_dir, settle
from runback.tracking import run_tag
from runback.tracking.connection import (
    Attempts,
    describe_error,
    is_http,
    is_permanent,
    is_refusal,
    is_transient,
    public_uri,
    repeated,
)
from runback.tracking.experiment import experiment_of
from runback.tracking.find_run import record_of
from runback.tracking.messages import RunDescription
from runback.tracking.status import fail_run
from runback.tracking.timeouts import connect_seconds

# After a lost response the server may still be writing the run; it is searched for this long.
SETTLE_SECONDS = 2.0
POLL_SECONDS = 0.2
# A request to create a run has no effect after this time.
FORGET_SECONDS = 600.0


def create_run(
    client: MlflowClient,
    pending: RunDir,
    description: RunDescription,
    experiment: str = "",
    given_id: str = "",
) -> RunDir:
    """Creates a run in an experiment and renames its pending directory.

    Args:
        client: of the tracking server.
        pending: the run's directory, locked by the caller.
        description: the run has its tags and facts from its first moment on.
        experiment: its name; by default the experiment of the environment.
        given_id: of the experiment, in the place of a name.

    Returns:
        The run's directory. On an HTTP server its journal keeps the mark for `delete_duplicates`.

    Raises:
        UsageError: the experiment does not exist or is deleted, or the options are too long for a
            tag; the directory is removed.
        TrackingError: the server is unreachable or rejects the request. If the run may exist, the
            pending directory is kept for `runback sync`.
    """
    try:
        experiment_id = experiment_of(client, experiment, given_id)
        first_tags = _first_tags(description, pending)
    except RunbackError:
        shutil.rmtree(pending.path, ignore_errors=True)
        raise
    _record_server(client, pending, experiment_id)
    run = _created(client, experiment_id, pending, first_tags)
    try:
        final = settle(pending, run.info.run_id)
    except RunbackError:
        with contextlib.suppress(Exception):  # `sync` deletes it
            delete_run(client, run.info.run_id, "its local folder cannot be created")
        raise
    if is_http(client.tracking_uri):
        _set_facts(final, unsettled_mark=pending.mark)
        with contextlib.suppress(Exception):  # repeated when the run has ended, and by `sync`
            _delete_others(client, experiment_id, final, pending.mark)
    return final


def delete_lost_runs(folder: RunDir, client_of: Callable[[str | None], MlflowClient]) -> None:
    """Deletes the untrained runs of a pending directory, then the directory.

    If no run is found, the directory is kept until `FORGET_SECONDS` have passed.

    Args:
        folder: a pending run directory, locked by the caller.
        client_of: returns the client for a URI from the journal.

    Raises:
        TrackingError: the server is unreachable.
    """
    if _can_be_deleted(folder, client_of):
        shutil.rmtree(folder.path, ignore_errors=True)


def delete_duplicates(client: MlflowClient, folder: RunDir, journal: Journal) -> None:
    """Deletes the duplicates that have appeared since the run's creation.

    Raises:
        MlflowException: the server is unreachable or rejects the request.
    """
    mark = journal.fact("unsettled_mark")
    if mark:
        _delete_others(client, str(journal.fact("experiment_id")), folder, str(mark))
        journal.set_fact("unsettled_mark", None)


def delete_run(client: MlflowClient, run_id: str, error: str) -> None:
    """Ends a run that no training uses as FAILED, and deletes it; idempotent.

    Raises:
        MlflowException: the server is unreachable or rejects the request.
    """
    try:
        repeated(lambda: fail_run(client, run_id, error))
    except MlflowException as failure:
        if not is_permanent(failure):  # else an earlier attempt has deleted it
            raise
    repeated(lambda: client.delete_run(run_id))


def _created(
    client: MlflowClient, experiment_id: str, pending: RunDir, first_tags: dict[str, str]
) -> Run:
    """The new run; the pending directory is removed if the server refused to create it."""
    attempts, is_first = Attempts(connect_seconds()), True
    while True:
        try:
            with attempts.settings(is_first):
                return client.create_run(experiment_id, tags=first_tags)
        except Exception as error:  # also a truncated response, or a gateway's error page
            if is_first and is_refusal(error):
                shutil.rmtree(pending.path, ignore_errors=True)
                raise TrackingError(f"a run cannot be created: {describe_error(error)}") from error
            if runs := _found_in_time(client, experiment_id, pending.mark):
                return runs[0]
            if not is_transient(error) or not attempts.another():
                raise TrackingError(
                    f"a run cannot be created: {describe_error(error)}; "
                    "if the server created it nevertheless, runback sync deletes it"
                ) from error
        is_first = False


def _delete_others(client: MlflowClient, experiment_id: str, folder: RunDir, mark: str) -> None:
    """Deletes other runs with the same mark."""
    runs = repeated(lambda: _marked(client, experiment_id, mark))
    _delete(client, [run for run in runs if run.info.run_id != folder.run_id])


def _found_in_time(client: MlflowClient, experiment_id: str, mark: str) -> list[Run]:
    """Waits for runs with the mark; empty if there is none in time."""
    attempts = Attempts(connect_seconds())
    deadline: float | None = None
    while True:
        with contextlib.suppress(Exception), attempts.settings():
            if runs := _marked(client, experiment_id, mark):
                return runs
            deadline = deadline or time.monotonic() + SETTLE_SECONDS
        if attempts.left() <= 0 or (deadline and time.monotonic() >= deadline):
            return []
        time.sleep(POLL_SECONDS)


def _marked(client: MlflowClient, experiment_id: str, mark: str) -> list[Run]:
    return list(client.search_runs([experiment_id], filter_string=run_tag.query(mark)))


def _delete(client: MlflowClient, surplus: list[Run]) -> None:
    """Ends and deletes duplicate runs."""
    for run in surplus:
        delete_run(client, run.info.run_id, "duplicate run: the create response was lost")


def _is_untouched(run: Run) -> bool:
    """Whether no training has begun in a run."""
    is_used = record_of(run).tags.is_described or run_dir(run.info.run_id).journal.exists()
    return run.info.status in ("RUNNING", "SCHEDULED") and not is_used


def _can_be_deleted(folder: RunDir, client_of: Callable[[str | None], MlflowClient]) -> bool:
    """Deletes the runs of a pending directory; returns whether no further run can appear."""
    with contextlib.closing(Journal(folder.journal)) as journal:
        uri, experiment_id = journal.fact("tracking_uri"), journal.fact("experiment_id")
    if uri is None:  # the training ended before the run was requested
        return True
    client, runs = client_of(uri), []
    try:
        runs = repeated(lambda: _marked(client, str(experiment_id), folder.mark))
        _delete(client, [run for run in runs if _is_untouched(run)])
    except MlflowException as error:
        if not is_permanent(error):  # else the experiment was deleted
            raise TrackingError(
                f"the search for a duplicate run failed: {describe_error(error)}"
            ) from error
    return bool(runs) or time.time() - folder.journal.stat().st_mtime > FORGET_SECONDS


def _record_server(client: MlflowClient, folder: RunDir, experiment_id: str) -> None:
    uri = public_uri(client.tracking_uri)
    _set_facts(folder, tracking_uri=uri, experiment_id=experiment_id)


def _set_facts(folder: RunDir, **facts: str) -> None:
    with contextlib.closing(Journal(folder.journal)) as journal:
        journal.set_facts(facts)
        journal.flush(durable=True)


def _first_tags(description: RunDescription, pending: RunDir) -> dict[str, str]:
    """The tags of the run from its first moment on."""
    fact_tag = run_tag.as_tag({**description.facts, run_tag.MARK: pending.mark})
    return {**_source_tags(), **description.tags, **fact_tag}


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
