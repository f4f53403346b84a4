"""The run created by a launcher such as `mlflow run`, from MLFLOW_RUN_ID."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from runback.commands.recorded import config_of, original_config_of, require_fingerprint
from runback.config import AUTO, FIELDS, TrainConfig, parse
from runback.data.readers import fingerprint
from runback.errors import ConfigError, UsageError
from runback.tracking.record import RunRecord


def launch_id() -> str:
    """The run ID in MLFLOW_RUN_ID; empty if it is not set."""
    return os.environ.get("MLFLOW_RUN_ID", "")


def changes_from(record: RunRecord, config: TrainConfig, frame: Path | None) -> dict[str, Any]:
    """The options in which a configuration differs from the one that a run was begun with.

    Options that are left to the data, such as `loss` auto, do not differ from what was chosen.

    Args:
        record: of the run.
        config: of the command that is given once more.
        frame: the Parquet file of its DataFrame; None for a table of its own.

    Raises:
        UsageError: the DataFrame is another one.
    """
    began_with, recorded = original_config_of(record), config_of(record)
    changes = {}
    for name in FIELDS:
        value = getattr(config, name)
        if value not in (AUTO, getattr(began_with, name), getattr(recorded, name)):
            changes[name] = value
    if frame is not None:
        require_fingerprint(fingerprint(frame), record, "the DataFrame")
    return changes


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
