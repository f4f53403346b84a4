"""The recorded configuration and table of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from runback.config import TrainConfig
from runback.data.user_dataset import is_dataset
from runback.errors import DataError
from runback.tracking.record import RunRecord, Tags


def config_of(record: RunRecord) -> TrainConfig:
    """The configuration of a run, with the changes of resumes.

    Raises:
        RunNotFoundError: not a run of runback.
        ConfigError: an option is unknown to this version.
    """
    return TrainConfig.from_mapping(record.config)


def original_config_of(record: RunRecord) -> TrainConfig:
    """The configuration of a run before any resume.

    Raises:
        RunNotFoundError, ConfigError: as in `config_of`.
    """
    return TrainConfig.from_mapping(record.original_config)


def with_data(config: TrainConfig, tags: Tags) -> TrainConfig:
    """The configuration with the recorded path of the table, if the file exists.

    Raises:
        DataError: neither that file nor the option `data` exists.
    """
    if tags.data_path and _exists(tags.data_path):
        return dataclasses.replace(config, data=tags.data_path)
    if not _exists(config.data) and not is_dataset(config.data):
        raise DataError(
            f"{tags.data_path or config.data}: the run's table does not exist; restore it, or give "
            "its new path to resume with --data"
        )
    return config


def require_fingerprint(found: str, tags: Tags, data: str) -> None:
    """Checks that a table is the one that the run was trained on.

    Raises:
        DataError: its SHA-256 differs from the recorded one.
    """
    recorded = tags.data_fingerprint
    if found != recorded:
        raise DataError(
            f"{data}: not the data of the run: SHA-256 is {found[:12]}..., "
            f"the run recorded {recorded[:12]}...; restore the file, or give its new path to resume "
            "with --data"
        )


def _exists(data: str) -> bool:
    """Whether the file of a table or of a user-defined dataset exists."""
    return Path(data).expanduser().exists() or Path(data.rpartition(":")[0]).is_file()
