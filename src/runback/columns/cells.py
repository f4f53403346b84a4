"""Cells of any source as Arrow arrays, and as distinct texts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

from runback.errors import DataError

# The texts that pandas reads as missing values, in all sources.
MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
_MISSING = frozenset(MISSING)
# pandas writes a column of whole numbers with a missing one as 1.0, 2.0, ...
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0")
_TEXT = (pa.string(), pa.large_string(), pa.string_view())
MAX_SHOWN = 60


@dataclass(frozen=True)
class Distinct:
    """Cells as codes of their distinct texts.

    Attributes:
        codes: `[n_rows]` int64, the index in `values`; -1 for a missing cell.
        values: the texts; not all of them need to occur.
    """

    codes: npt.NDArray[np.int64]
    values: list[str]

    def take(self, numbers: npt.NDArray[Any], missing: Any) -> npt.NDArray[Any]:
        """`[n_rows]`, the entry of `numbers` for each cell's text, or `missing`."""
        return np.append(numbers, np.asarray([missing], numbers.dtype))[self.codes]

    @cached_property
    def _occurrences(self) -> npt.NDArray[np.int64]:
        """How often each code occurs, from -1 on."""
        return np.bincount(self.codes + 1, minlength=len(self.values) + 1)

    def counts(self) -> dict[str, int]:
        """How often each text occurs, without those that do not."""
        counts = self._occurrences[1:]
        return {self.values[i]: int(counts[i]) for i in np.flatnonzero(counts)}

    def first(self, flags: Iterable[bool]) -> tuple[int, str] | None:
        """The index and the text of the first cell whose text has a true flag; None without one."""
        rows = np.flatnonzero(self.take(np.array([*flags], np.bool_), False))
        return (int(rows[0]), self.values[self.codes[rows[0]]]) if len(rows) else None

    @property
    def n_missing(self) -> int:
        """The number of missing cells."""
        return int(self._occurrences[0])


def to_arrow(cells: Any) -> pa.Array:
    """Cells of a column as one Arrow array; NaN becomes null."""
    if isinstance(cells, pa.ChunkedArray):
        unified = cells.unify_dictionaries() if kinds.is_dictionary(cells.type) else cells
        return unified.combine_chunks()
    if isinstance(cells, pa.Array):
        return cells
    if isinstance(cells, np.ndarray):
        return pa.array(cells, from_pandas=True)
    try:
        array = pa.Array.from_pandas(cells)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # cells of several types
        array = pa.array([_plain(value) for value in cells], pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text, or a dictionary of text."""
    return (kind.value_type if kinds.is_dictionary(kind) else kind) in _TEXT


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a whole, floating-point or decimal number, or a dictionary of it."""
    plain = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_integer(plain) or kinds.is_floating(plain) or kinds.is_decimal(plain))


def is_date(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a date, or a date with a time."""
    return bool(kinds.is_date(kind) or kinds.is_timestamp(kind))


def distinct(cells: Any) -> Distinct:
    """Cells as codes of distinct texts; equal values of different types have the same text.

    Raises:
        TypeError: cells of this type have no text, such as lists.
    """
    array = to_arrow(cells)
    if kinds.is_null(array.type):
        return Distinct(np.full(len(array), -1, np.int64), [])
    if not kinds.is_dictionary(array.type):
        array = _encoded(array)
    indices = array.indices.cast(pa.int64()).fill_null(-1)
    codes = np.asarray(np.from_dlpack(indices)) if len(indices) else np.empty(0, np.int64)
    texts = text_of(array.dictionary)
    values = list(dict.fromkeys(text for text in texts if text is not None))
    if len(values) == len(texts):
        return Distinct(codes, values)
    index_of = {text: index for index, text in enumerate(values)}
    merged = np.array([*(-1 if text is None else index_of[text] for text in texts), -1], np.int64)
    return Distinct(merged[codes], values)


def texts_in(where: Path | str, name: str, cells: Any) -> Distinct:
    """As `distinct`, of the column of a table.

    Raises:
        DataError: cells of this type have no text.
    """
    try:
        return distinct(cells)
    except TypeError as error:
        raise DataError(f"{where}: column {name!r}: {error}") from None


def text_of(values: pa.Array) -> list[str | None]:
    """Values as text; None if a value is missing.

    Whole numbers have no decimal point, dates are in ISO form, and truth values are True and False.

    Raises:
        TypeError: values of this type have no text.
    """
    kind = values.type
    if kinds.is_dictionary(kind):
        return text_of(values.dictionary_decode())
    if not (is_text(kind) or is_number(kind) or is_date(kind) or kinds.is_boolean(kind)):
        raise TypeError(f"cells of type {kind} cannot be used")
    try:
        plain = in_microseconds(values) if kinds.is_timestamp(kind) else values
        return [_text(value) for value in plain.to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError):
        raise TypeError(f"a cell of type {kind} lies outside of the years 1 to 9999") from None


def in_microseconds(values: pa.Array) -> pa.Array:
    """Dates or times as `timestamp("us")`; nanoseconds, which have no Python type, are cut off.

    Raises:
        pa.ArrowInvalid: a time has no int64 in microseconds.
    """
    kind = values.type
    is_time = kinds.is_timestamp(kind)
    target = pa.timestamp("us", kind.tz if is_time else None)
    return values.cast(target, safe=not (is_time and kind.unit == "ns"))


def shown(value: Any) -> str:
    """A cell in an error message."""
    try:
        text = repr(value)
    except (ValueError, OverflowError, NotImplementedError):  # times outside of Python's calendar
        text = f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def is_missing(text: str) -> bool:
    """Whether a text means a missing value."""
    return text in _MISSING


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    try:
        return array.dictionary_encode()
    except (pa.ArrowException, NotImplementedError):
        raise TypeError(f"cells of type {array.type} cannot be used") from None


def _plain(value: Any) -> str | None:
    """A cell of a column with several types as text."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if missing else _text(value)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value in _MISSING:
            return None
        match = _WHOLE.fullmatch(value)
        return match[1] if match else value
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime.datetime):
        return _datetime_text(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    return _text(str(value))


def _datetime_text(value: datetime.datetime) -> str:
    """In ISO form, in UTC if there is a time zone, without the time at midnight."""
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    if value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat(sep=" ")
