"""The columns of a table as tensors: encoded column by column, and checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runback.columns.cells import MAX_SHOWN
from runback.columns.column import Column
from runback.columns.number import number_columns
from runback.errors import DataError

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second


def fill(
    where: Path | str,
    columns: Sequence[Column],
    cells: Callable[[str], Any],
    rows: Tensor,
    first: int,
    *,
    missing: set[str] | None = None,
) -> None:
    """Fills `[n_rows, width]` column by column.

    Args:
        where: the table's name in errors.
        columns: in the order of the tensor.
        cells: returns the cells of a column by its name.
        rows: a tensor on the CPU, changed in place.
        first: index of its first row in the table, from 0.
        missing: the names of columns with NaN are added to it; None refuses NaN.

    Raises:
        DataError: a cell cannot be encoded, is missing, is infinite, or overflows the dtype of
            `rows`.
    """
    view = rows.numpy()
    position = 0
    for column in columns:
        source = column.encode(cells(column.name), where, first)
        stored = view[:, position : position + source.shape[1]]
        with np.errstate(over="ignore"):
            stored[...] = source
        _check_finite(where, column.name, stored, source, first, missing)
        position += source.shape[1]


def width_of(columns: Sequence[Column]) -> int:
    """The number of columns of the encoded tensor."""
    return sum(len(column.parts) for column in columns)


def frame_to_tensor(
    frame: pd.DataFrame,
    features: Sequence[str],
    dtype: torch.dtype,
    where: str = "table",
    first: int = 0,
    columns: Sequence[Column] = (),
) -> Tensor:
    """The encoded feature columns of a frame; column order does not matter.

    Args:
        frame: a table, or a part of one.
        features: the columns.
        dtype: of the tensor.
        where: the table's name in errors.
        first: index of the frame's first row in the table, from 0.
        columns: the description of `features`; empty if all are complete number columns.

    Returns:
        `[n_rows, width]`; for number columns, the width is the number of features.

    Raises:
        DataError: a column is missing, or a cell is not of its kind.
    """
    names = [str(name) for name in frame.columns]
    require_columns(where, names, features)
    index_of = {name: index for index, name in enumerate(names)}
    duplicates = [name for name, count in Counter(names).items() if count > 1 and name in features]
    if duplicates:
        raise DataError(f"{where}: column {duplicates[0]!r} appears more than once")
    described = columns or number_columns(features)
    rows = torch.empty((len(frame), width_of(described)), dtype=dtype)
    fill(where, described, lambda name: frame.iloc[:, index_of[name]], rows, first)
    return rows


def require_columns(
    where: Path | str, names: Sequence[str], wanted: Sequence[str], option: str = ""
) -> None:
    """Checks that a table has all wanted columns.

    Raises:
        DataError: a column is missing; the message lists the table's columns.
    """
    known = set(names)
    for name in wanted:
        if name not in known:
            source = f" (option {option})" if option else ""
            raise DataError(
                f"{where}: no column {name!r}{source}; the columns are {listing(names)}"
            )


def listing(names: Sequence[str], most: int = 12) -> str:
    """Column names in one line, at most `most` of them."""
    shown = ", ".join(_plain(name) for name in names[:most])
    return shown + (f", ... ({len(names)} columns)" if len(names) > most else "")


def _plain(name: str) -> str:
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "..."


def _check_finite(
    where: Path | str,
    name: str,
    stored: npt.NDArray[np.floating[Any]],
    source: npt.NDArray[np.floating[Any]],
    first: int,
    missing: set[str] | None,
) -> None:
    if _is_small(source, stored.dtype):
        return
    finite = np.isfinite(stored)
    if finite.all():
        return
    if missing is not None and np.isnan(source).any():
        missing.add(name)
        finite |= np.isnan(source)
        if finite.all():
            return
    row, part = (int(index[0]) for index in np.nonzero(~finite))
    value = float(source[row, part])
    if math.isnan(value):
        problem = "has no value"
    elif math.isinf(value):
        problem = "is infinite"
    else:
        problem = f"{value!r} does not fit {stored.dtype}; use precision float64"
    raise DataError(f"{where}: column {name!r}, data row {first + row + 1}: {problem}")


def _is_small(source: npt.NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> bool:
    """Whether all numbers are finite and far below the largest one of a dtype.

    The source is contiguous, and two passes over it take less time than one over the rows of the
    tensor; a few numbers near the limit are checked again.
    """
    if not source.size:
        return True
    most = float(np.finfo(dtype).max) / 2
    return bool(-most < source.min() and source.max() < most)
