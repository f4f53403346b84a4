"""The run created by a launcher such as `mlflow run`, from MLFLOW_RUN_ID."""

from __future__ import annotations

import os
import shlex
from typing import Any

from runback.config import FIELDS, TrainConfig, parse
from runback.errors import ConfigError, UsageError
from runback.tracking.record import RunRecord

# Set by `runback resume` for the script that it starts.
RUN_VARIABLE = "RUNBACK_RUN_ID"


def run_to_continue() -> str:
    """The run ID in RUNBACK_RUN_ID, of which the first call takes it away; empty if it is not set."""
    return os.environ.pop(RUN_VARIABLE, "")


def launch_id() -> str:
    """The run ID in MLFLOW_RUN_ID; empty if it is not set."""
    return os.environ.get("MLFLOW_RUN_ID", "")


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
