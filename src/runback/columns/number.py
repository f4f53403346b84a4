"""Columns of numbers: parsing, missing values, and error messages that name the cell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from runback.columns.column import Numbers
from runback.errors import DataError

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

# Missing values as pandas and spreadsheets write them; training rows must not contain any.
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>"]
MAX_SHOWN = 60


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, truth values or decimals; see `runback.columns.column.Column`."""

    name: str

    def encode(self, cells: pa.Array | pd.Series, where: Path | str, first: int) -> Numbers:
        """See `Column.encode`; text cells are parsed as numbers."""
        if isinstance(cells, pa.Array):
            return _arrow_numbers(where, self.name, cells, first)
        return _series_numbers(where, self.name, cells, first)


def number_columns(names: Iterable[str]) -> tuple[NumberColumn, ...]:
    """One `NumberColumn` for each name."""
    return tuple(map(NumberColumn, names))


def number_of(value: Any) -> float | None:
    """A cell as a number; NaN if it is missing, None if it is not a number."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values
        return math.nan
    if isinstance(value, str):
        if value in MISSING:
            return math.nan
        if "_" in value or not value.isascii():  # Python's float() would accept 1_000
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def not_a_number(name: str, row: int, value: Any) -> str:
    """The error message for a cell: its column, row and value."""
    text = repr(value)
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    truth = str(value).strip().lower() in ("true", "false")
    hint = "; write 1 for true and 0 for false" if truth else ""
    return f"column {name!r}, data row {row}: {shown} is not a number{hint}"


def _arrow_numbers(where: Path | str, name: str, column: pa.Array, first: int) -> Numbers:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _series_numbers(where, name, column.to_pandas(), first)
    column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(math.nan)
    return np.asarray(np.from_dlpack(column), np.float64)  # `to_numpy` would import pandas


def _series_numbers(where: Path | str, name: str, column: pd.Series, first: int) -> Numbers:
    import pandas as pd

    is_number = pd.api.types.is_numeric_dtype(column)
    if is_number and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.empty(len(column))
    for row, value in enumerate(column):
        number = number_of(value)
        if number is None:
            raise DataError(f"{where}: {not_a_number(name, first + row + 1, value)}")
        numbers[row] = number
    return numbers
