"""The copy of a table that is kept with its run, so that the run's ID is enough elsewhere."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from runback.config import TrainConfig
from runback.data.files import COMPRESSED
from runback.data.readers import fingerprint
from runback.errors import ConfigError, DataError, TrackingError
from runback.limits import artifact_path_problem
from runback.storage.atomic import make_folder, write_atomically

if TYPE_CHECKING:
    from runback.training.setup import TrainingSetup

FOLDER = "data"
# With store_data auto: the largest copy, and the largest file of which one is made.
MAX_COPY = 8 << 20
MAX_FILE = 64 << 20
ENDINGS = (".csv", ".parquet", *(f".csv{ending}" for ending in COMPRESSED))


def check_storable(config: TrainConfig, setup: TrainingSetup) -> None:
    """Checks `store_data true` before the run is created.

    Raises:
        ConfigError: the data is a dataset, or its file has a name that the store refuses.
    """
    if config.store_data != "true":
        return
    if setup.table.dataset is not None:
        raise ConfigError("option store_data: a dataset of your own is not stored; use auto")
    if problem := artifact_path_problem(copy_name(setup.table.path)):
        raise ConfigError(
            f"option store_data: {setup.table.path.name!a} cannot be stored with the run: it {problem}"
        )


def copy_name(path: PurePath | str) -> str:
    """The artifact of a table's copy, such as data/houses.csv.gz for houses.csv."""
    name = PurePath(path).name
    return f"{FOLDER}/{name}" + (".gz" if name.lower().endswith(".csv") else "")


def write_copy(setup: TrainingSetup, folder: Path) -> Path | None:
    """Writes the copy of the table below a run's folder; None if none is kept.

    Raises:
        CheckpointError: it cannot be written.
    """
    table, wanted = setup.table, setup.config.store_data
    name = copy_name(table.path)
    if wanted == "false" or table.dataset is not None or artifact_path_problem(name):
        return None
    if wanted == "auto" and table.path.stat().st_size > MAX_FILE:
        return None
    copy = folder / name
    make_folder(copy.parent)
    write = _pack if copy.name != table.path.name else shutil.copyfileobj
    with table.path.open("rb") as source:
        write_atomically(copy, lambda file: write(source, file))
    if wanted == "auto" and copy.stat().st_size > MAX_COPY:
        copy.unlink()
        return None
    return copy


def stored_table(data_path: str, recorded: str, stored: Callable[[str], Path]) -> Path | None:
    """The run's table, from the copy that is kept with it; None if there is none.

    Args:
        data_path: where the table was; only its name is used.
        recorded: the SHA-256 of its content.
        stored: returns the local file of an artifact of the run.

    Raises:
        DataError: the copy is damaged: its content has another SHA-256.
    """
    name = copy_name(data_path)
    if not name.lower().endswith(ENDINGS) or artifact_path_problem(name):
        return None
    try:
        copy = stored(name)
    except TrackingError:
        return None
    if not copy.is_file():
        return None
    table = copy.with_name(PurePath(data_path).name)
    if table != copy and not (table.is_file() and fingerprint(table) == recorded):
        _unpack(copy, table)
    if fingerprint(table) != recorded:
        raise DataError(
            f"{table}: the copy of the run's table is damaged: its SHA-256 is not the recorded one; "
            "delete it, or restore the table"
        )
    return table


def _pack(source: IO[bytes], file: IO[bytes]) -> None:
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as target:
        shutil.copyfileobj(source, target)


def _unpack(copy: Path, table: Path) -> None:
    def write(file: IO[bytes]) -> None:
        try:
            with gzip.open(copy) as source:
                shutil.copyfileobj(source, file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{copy}: the copy of the run's table is damaged ({error})") from None

    write_atomically(table, write)
