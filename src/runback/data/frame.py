"""pandas DataFrames as tables: written as Parquet files, which are then read like all others."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from runback.columns.cells import to_arrow
from runback.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second


def is_frame(data: Any) -> TypeGuard[pd.DataFrame]:
    """Whether an object is a pandas DataFrame; pandas is not imported for it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def write_frame(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame's columns, without its index, as a Parquet file; returns the path.

    Cells of a column with several types are written as text.

    Raises:
        DataError: two columns have the same name, or a column has a type that Parquet lacks.
    """
    names = [str(name) for name in frame.columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"frame: column {twice[0]!r} appears more than once")
    try:
        columns = [to_arrow(frame.iloc[:, index]) for index in range(len(names))]
        pq.write_table(pa.table(columns, names=names), path)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"frame: cannot be used as a table ({first_line(error)})") from None
    return path


@contextmanager
def named_frame(path: Path) -> Iterator[None]:
    """Errors about the file of a frame name the frame instead."""
    try:
        yield
    except DataError as error:
        raise DataError(
            str(error).replace(str(path.resolve()), "frame").replace(str(path), "frame")
        ) from None
