"""The recorded configuration and table of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from runback.commands.stored_data import stored_table
from runback.config import EXAMPLE_DATA, TrainConfig, own_references, parse_all
from runback.data.files import is_dataset, is_object
from runback.errors import ConfigError, DataError, ModelError, TrackingError, TrustError
from runback.storage.trust import known_in
from runback.tracking import run_tag
from runback.tracking import tags as names
from runback.tracking.record import RunRecord, Tags
from runback.user_code import MAX_SHOWN, is_of_library, is_user_defined, locate

# The table of a DataFrame, in the run's folder and among its artifacts; all other recorded paths
# are absolute.
STORED_FRAME = "data/frame.parquet"


def config_of(record: RunRecord) -> TrainConfig:
    """The configuration of a run, with the changes of resumes.

    Raises:
        RunNotFoundError: not a run of runback.
        TrackingError: a tag with options is damaged, or written by a later version.
    """
    changed, original = record.tags.changes, original_config_of(record)
    for name, value in changed.items():
        with _naming(record, run_tag.CHANGED):
            parse_all({name: value})
    with _naming(record, run_tag.CHANGED):
        return dataclasses.replace(original, **parse_all(changed))


def original_config_of(record: RunRecord) -> TrainConfig:
    """The configuration of a run before any resume.

    Raises:
        RunNotFoundError, TrackingError: as in `config_of`.
    """
    with _naming(record, run_tag.CONFIG):
        return TrainConfig.from_recorded(record.original_config)


def kept_references(config: TrainConfig) -> list[str]:
    """The user's own classes and functions whose source is kept with the run, without the data's."""
    model = (config.model,) if is_user_defined(config.model) else ()
    names = [*model, *itertools.chain(*own_references(config).values())]
    return [name for name in names if not is_of_library(name)]


def own_code_of(config: TrainConfig) -> str:
    """What the user's own code of a run is, for messages, such as "module, loss"."""
    what = ["module"] if is_user_defined(config.model) else []
    return ", ".join([*what, *own_references(config)])


def with_data(config: TrainConfig, tags: Tags, stored: Callable[[str], Path]) -> TrainConfig:
    """The configuration with the recorded path of the table, if the file exists, or its copy's.

    A recorded class is used only if this user has trained with it in its present form: the path
    comes from the tracking server, and reading a dataset executes its file.

    Args:
        config: of the run.
        tags: of the run.
        stored: returns the local file of an artifact of the run, for the table of a frame.

    Raises:
        DataError: neither that file nor the option `data` exists, or the data was an object.
        TrustError: it is a class that is not known on this machine.
    """
    if tags.data_path == STORED_FRAME:
        return dataclasses.replace(config, data=str(stored(STORED_FRAME)))
    if is_object(config.data):
        raise DataError(
            f"the run was trained on an {config.data}, which is not stored with it; give the dataset "
            "in Python, as in evaluate(run, dataset) and resume(run, data=dataset)"
        )
    if tags.data_path and _exists(tags.data_path):
        config = dataclasses.replace(config, data=tags.data_path)
    if is_dataset(config.data):
        _require_known(config.data)
    elif not _exists(config.data):
        copy = stored_table(tags.data_path or config.data, tags.data_fingerprint, stored)
        if copy is not None:
            return dataclasses.replace(config, data=str(copy))
        raise DataError(
            f"{_shown(tags.data_path or config.data)}: the run's table does not exist, and "
            "no copy is kept with the run; restore it, or give its new path to resume with --data"
        )
    return config


def require_fingerprint(found: str, record: RunRecord, data: str) -> None:
    """Checks that a table is the one that the run was trained on.

    Raises:
        DataError: its SHA-256 differs from the recorded one.
        TrackingError: the tag is damaged.
    """
    recorded = record.tags.data_fingerprint
    if not re.fullmatch("[0-9a-f]{64}", recorded):
        raise TrackingError(
            f"run {record.run_id}: tag {names.RUN} is damaged: its {run_tag.DATA_FINGERPRINT} is not a "
            "SHA-256"
        )
    if found != recorded:
        raise DataError(
            f"{data}: not the data of the run: SHA-256 is {found[:12]}..., "
            f"the run recorded {recorded[:12]}...; restore the file, or give its new path to resume "
            "with --data"
        )


@contextlib.contextmanager
def _naming(record: RunRecord, entry: str) -> Iterator[None]:
    """Names the run and the entry of its tag in errors about recorded options."""
    try:
        yield
    except ConfigError as error:
        raise TrackingError(
            f"run {record.run_id}: {entry} in tag {names.RUN} is damaged, or from a later version of "
            f"runback: {error}"
        ) from None


def _require_known(data: str) -> None:
    """Checks that this user has trained with a dataset of the same source; imports nothing.

    Raises:
        DataError: there is no such file or module.
        TrustError: the source is not known on this machine.
    """
    try:
        code = locate(data, "data")
    except ModelError as error:
        raise DataError(str(error)) from error
    if not known_in(code.root, code.reference):
        raise TrustError(
            f"{_shown(data)}: the run names this class as its data, and nothing was trained with it "
            "here in its present form; to run its code, name it with --data, or train with it first"
        )


def _shown(text: str) -> str:
    return ascii(text[:MAX_SHOWN])[1:-1]


def _exists(data: str) -> bool:
    """Whether the file of a table or of a user-defined dataset exists."""
    if data == EXAMPLE_DATA:
        return True
    try:
        file = data.rpartition(":")[0] if is_dataset(data) else data
        return Path(file).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # not a path
        return False
