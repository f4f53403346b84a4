"""Columns of numbers: parsing, missing values, and error messages that name the cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runback.columns import stored as entries
from runback.columns.cells import distinct, is_date, is_missing, is_text, shown, to_arrow
from runback.columns.column import Numbers
from runback.errors import DataError

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

# The median of more rows is the median of so many of them, evenly spaced.
MEDIAN_ROWS = 100_000


class NotANumberError(DataError):
    """A cell of a number column is something else."""


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, decimals or texts of numbers; see `runback.columns.column.Column`.

    Attributes:
        median: of the training rows; it replaces missing cells. None refuses them.
        missing: whether the column has a second number: 1 for a missing cell, otherwise 0.
    """

    kind: ClassVar[str] = "number"
    name: str
    median: float | None = None
    missing: bool = False

    codes: ClassVar[int] = 0
    unused_codes: ClassVar[tuple[int, ...]] = ()
    raw: ClassVar[str] = "number"

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Column.parts`."""
        return (self.name, f"{self.name} is missing") if self.missing else (self.name,)

    @classmethod
    def fit(cls, name: str, cells: Any) -> Self:
        """See `Column.fit`; without a number the median is 0."""
        try:
            numbers = parse_numbers(name, cells, "", 0)
        except DataError as error:
            raise ValueError(str(error)) from None
        present = numbers[~np.isnan(numbers)]
        return cls(name, median_of(present), missing=len(present) < len(numbers))

    def encode(self, cells: Any, where: Path | str, first: int) -> Numbers:
        """See `Column.encode`; text cells are parsed as numbers."""
        numbers = parse_numbers(self.name, cells, where, first)
        if self.median is None:
            return numbers[:, None]
        gaps = np.isnan(numbers)
        if not self.missing and not gaps.any():
            return numbers[:, None]
        filled = np.where(gaps, numbers.dtype.type(self.median), numbers)
        return np.stack((filled, gaps), axis=1) if self.missing else filled[:, None]

    def as_json(self) -> dict[str, Any]:
        """See `Column.as_json`."""
        return {
            "kind": self.kind, "name": self.name, "median": self.median, "missing": self.missing
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """See `Column.from_json`."""
        median = entries.number(stored, "median")
        return cls(entries.text(stored, "name"), median, entries.flag(stored, "missing"))


def number_columns(names: Iterable[str]) -> tuple[NumberColumn, ...]:
    """One `NumberColumn` for each name, which refuses missing cells."""
    return tuple(map(NumberColumn, names))


def median_of(numbers: npt.NDArray[np.floating[Any]]) -> float:
    """The median, of `MEDIAN_ROWS` evenly spaced numbers if there are more; 0 if there is none."""
    step = max(1, -(-len(numbers) // MEDIAN_ROWS))
    return float(np.median(numbers[::step].astype(np.float64))) if len(numbers) else 0.0


def parse_numbers(name: str, cells: Any, where: Path | str, first: int) -> Numbers:
    """`[n_rows]`, NaN for missing cells; arguments and errors as in `Column.encode`."""
    if isinstance(cells, np.ndarray):
        return cells
    if isinstance(cells, pa.Array | pa.ChunkedArray):
        return _arrow_numbers(where, name, cells, first)
    return _series_numbers(where, name, cells, first)


def number_of(value: Any) -> float | None:
    """A cell as a number; NaN if it is missing, None if it is not a number."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values
        return math.nan
    if isinstance(value, str):
        if is_missing(value):
            return math.nan
        if "_" in value or not value.isascii():  # Python's float() would accept 1_000
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def in_pandas(where: Path | str, name: str, cells: pa.Array | pa.ChunkedArray) -> pd.Series:
    """A column as pandas has it.

    Raises:
        DataError: pandas has no such values, such as times in nanoseconds.
    """
    try:
        series: pd.Series = cells.to_pandas()
    except pa.ArrowException:
        raise DataError(f"{where}: column {name!r} is {cells.type}, not numbers") from None
    return series


def not_a_number(name: str, row: int, value: Any) -> str:
    """The error message for a cell: its column, row and value."""
    truth = isinstance(value, str) and value.strip().lower() in ("true", "false")
    hint = "; write 1 for true and 0 for false" if truth else ""
    return f"column {name!r}, data row {row}: {shown(value)} is not a number{hint}"


def _arrow_numbers(where: Path | str, name: str, column: Any, first: int) -> Numbers:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif is_text(kind):
        return _text_numbers(where, name, column, first)
    elif is_date(kind):
        return _no_dates(where, name, column, first)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _series_numbers(where, name, in_pandas(where, name, column), first)
    column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(math.nan)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return np.asarray(np.from_dlpack(column), np.float64)  # `to_numpy` would import pandas


def _text_numbers(where: Path | str, name: str, column: Any, first: int) -> Numbers:
    """Texts are parsed once for each distinct one."""
    texts = distinct(column)
    numbers = [number_of(value) for value in texts.values]
    wrong = texts.first(number is None for number in numbers)
    if wrong is not None:
        raise NotANumberError(f"{where}: {not_a_number(name, first + wrong[0] + 1, wrong[1])}")
    parsed = np.array([math.nan if n is None else n for n in numbers], np.float64)
    found: Numbers = texts.take(parsed, math.nan)
    return found


def _no_dates(where: Path | str, name: str, column: Any, first: int) -> Numbers:
    """Missing cells only; a date is shown by Arrow, whose calendar has more years than Python's."""
    row = pc.index(pc.is_valid(column), True).as_py()
    if row < 0:
        return np.full(len(column), math.nan)
    cell = column.slice(row, 1)
    if pa.types.is_timestamp(cell.type):
        cell = cell.cast(pa.timestamp(cell.type.unit))
    date = cell.cast(pa.string())[0].as_py()
    raise NotANumberError(f"{where}: {not_a_number(name, first + row + 1, date)}")


def _series_numbers(where: Path | str, name: str, column: pd.Series, first: int) -> Numbers:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return _no_dates(where, name, to_arrow(column), first)
    is_number = pd.api.types.is_numeric_dtype(column)
    if is_number and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.empty(len(column))
    for row, value in enumerate(column):
        number = number_of(value)
        if number is None:
            raise NotANumberError(f"{where}: {not_a_number(name, first + row + 1, value)}")
        numbers[row] = number
    return numbers
