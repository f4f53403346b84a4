"""The option `data`, checked without reading a table and without importing a library."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from runback.config import EXAMPLE_DATA
from runback.errors import DataError

# The copy of the example's table for a folder that does not have it.
PACKAGED_EXAMPLE = Path(__file__).with_name("non_linear.csv")
COMPRESSED = (".gz", ".zst")
OBJECT = "object of "
_DATASET = re.compile(r".+\.py:\w+|[A-Za-z_][\w.]*:\w+")


def is_dataset(data: str | Path) -> bool:
    """Whether a data option names a class, `file.py:Class` or `package.module:Class`."""
    return _DATASET.fullmatch(str(data)) is not None


def object_name(samples: object) -> str:
    """The value of the option `data` for a dataset object, which cannot be read again by its name."""
    return OBJECT + type(samples).__name__


def is_object(data: str) -> bool:
    """Whether a data option is the name of a dataset object."""
    return data.startswith(OBJECT)


def data_name(file: Path) -> str:
    """A data file's name without its endings: "houses" for houses.csv and houses.csv.gz."""
    name = Path(file.stem).stem if file.suffix.lower() in COMPRESSED else file.stem
    return name.removeprefix(OBJECT)


def existing(path: str | Path) -> Path:
    """Resolves a path, with `~` expanded, to a non-empty file; that of the example always exists.

    Raises:
        DataError: no such file, a folder, a pipe or device, or an empty file.
    """
    if not str(path):
        raise DataError("option data: is empty; a .csv or .parquet file is needed")
    try:
        file = Path(path).expanduser()
        status = file.stat()
    except FileNotFoundError:
        if str(path) == EXAMPLE_DATA:
            return PACKAGED_EXAMPLE
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:  # no such home folder; a zero byte in the name
        raise DataError(f"{path}: {error}") from None
    if file.is_dir():
        raise DataError(f"{file}: is a folder; a .csv or .parquet file is needed")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file}: is a pipe or device; a file is needed, as it is read twice")
    if status.st_size == 0:
        raise DataError(f"{file}: the file is empty")
    return file
