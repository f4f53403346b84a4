"""The run created by a launcher such as `mlflow run`, from MLFLOW_RUN_ID."""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import Any

from runback.config import FIELDS, TrainConfig, parse
from runback.errors import ConfigError, RunbackError, UsageError
from runback.tracking.record import RunRecord

_TRAINING = ("train", "resume", "fork", "reproduce")
# Set by `runback resume` for the script that it starts.
RUN_VARIABLE = "RUNBACK_RUN_ID"


def run_to_continue() -> str:
    """The run ID in RUNBACK_RUN_ID, of which the first call takes it away; empty if it is not set."""
    return os.environ.pop(RUN_VARIABLE, "")


def launch_id() -> str:
    """The run ID in MLFLOW_RUN_ID; empty if it is not set."""
    return os.environ.get("MLFLOW_RUN_ID", "")


def mark_launch(command: str, run: str) -> None:
    """Describes the run that `mlflow run -e COMMAND` has created, nested under RUN if there is one.

    Nothing is done for commands that train in that run, and for a run of another program that is in
    MLFLOW_RUN_ID. Errors are reported by the command itself.
    """
    if not launch_id() or command in _TRAINING:
        return
    from runback.tracking.connection import connect  # imports mlflow
    from runback.tracking.describe_run import is_launch, nest_launch
    from runback.tracking.find_run import find_run

    with contextlib.suppress(RunbackError):
        client = connect()
        if is_launch(client, launch_id(), command):
            parent = find_run(client, run).run_id if run else ""
            nest_launch(client, launch_id(), parent, command)


def require_adoptable(record: RunRecord, config: TrainConfig) -> None:
    """Checks that a run can be used for a new training.

    Raises:
        UsageError: the run has ended, or has a param with another value.
    """
    run_id = record.run_id
    for name, logged in record.params.items():
        if name in FIELDS and not _is_same(name, logged, getattr(config, name)):
            wanted = config.as_params()[name]
            raise UsageError(f"run {run_id} has param {name} = {logged}, not {wanted}")
    if not record.awaits_training:
        raise UsageError(
            f"MLFLOW_RUN_ID {run_id}: the run has ended ({record.status}) or been deleted; unset "
            "the variable to create a new run"
        )


def _is_same(name: str, logged: str, value: Any) -> bool:
    """Whether a param as logged by `mlflow run`, quoted for the shell, has the same value."""
    try:
        unquoted = shlex.split(logged)
        return bool(parse(name, unquoted[0] if unquoted else "") == value)
    except (ConfigError, ValueError):
        return False
