"""Columns of dates and times, as numbers that a model can use.

A date becomes the years since 2000, and the sine and cosine of the day of the year and of the
weekday. If training rows have times of day, their sine and cosine are added. Times with a time zone
are converted to UTC.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runback.columns import stored as entries
from runback.columns.cells import in_microseconds, is_date, shown, texts_in, to_arrow
from runback.columns.column import Numbers
from runback.errors import DataError

_DAY = 86_400_000_000  # microseconds
_MINUTE = 60_000_000
_DAY_2000 = 10_957  # days from 1970 to 2000
_MISSING = np.iinfo(np.int64).min
_MOST = 2**62
_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?")
_PARTS = ("years", "sin of year", "cos of year", "sin of week", "cos of week")
_TIME_PARTS = ("sin of day", "cos of day")


def _circle(steps: int, length: float) -> npt.NDArray[np.float64]:
    """`[steps, 2]`: sine and cosine of each step of a circle that is `length` steps long.

    A table, because the last bit of numpy's sine can depend on the other elements of its array.
    """
    angles = (2 * math.pi * step / length for step in range(steps))
    return np.array([(math.sin(angle), math.cos(angle)) for angle in angles])


_YEAR, _WEEK, _TIME = _circle(366, 365.25), _circle(7, 7), _circle(1440, 1440)


@dataclass(frozen=True)
class DateColumn:
    """A column of dates or times; see `runback.columns.column.Column`.

    Attributes:
        times: whether training rows have times of day.
        median: of the training rows, in microseconds since 1970; it replaces missing cells.
        missing: whether a last number is added: 1 for a missing cell, otherwise 0.
    """

    kind: ClassVar[str] = "date"
    name: str
    times: bool
    median: int
    missing: bool

    codes: ClassVar[int] = 0
    unused_codes: ClassVar[tuple[int, ...]] = ()
    raw: ClassVar[str] = "text"

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Column.parts`."""
        parts = (*_PARTS, *(_TIME_PARTS if self.times else ()))
        named = tuple(f"{self.name}: {part}" for part in parts)
        return (*named, f"{self.name} is missing") if self.missing else named

    @classmethod
    def fit(cls, name: str, cells: pa.Array) -> Self:
        """See `Column.fit`."""
        try:
            moments = parse_moments(name, cells, "", 0)
        except DataError as error:
            raise ValueError(str(error)) from None
        present = moments[moments != _MISSING]
        middle = int(np.sort(present)[len(present) // 2]) if len(present) else 0
        times = bool((present % _DAY != 0).any())
        return cls(name, times, middle, len(present) < len(moments))

    def encode(self, cells: Any, where: Path | str, first: int) -> Numbers:
        """See `Column.encode`; dates in texts are in ISO form, 2026-01-31 or 2026-01-31 12:30."""
        moments = parse_moments(self.name, cells, where, first)
        gaps = moments == _MISSING
        numbers = _numbers(np.where(gaps, self.median, moments), self.times)
        return np.hstack((numbers, gaps[:, None])) if self.missing else numbers

    def as_json(self) -> dict[str, Any]:
        """See `Column.as_json`."""
        return {
            "kind": self.kind, "name": self.name, "times": self.times, "median": self.median,
            "missing": self.missing,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """See `Column.from_json`."""
        return cls(
            entries.text(stored, "name"),
            entries.flag(stored, "times"),
            entries.whole(stored, "median", -_MOST, _MOST),
            entries.flag(stored, "missing"),
        )


def moment_of(text: str) -> int | None:
    """A date in ISO form, with or without a time, in microseconds since 1970; None for others."""
    if not _FORM.fullmatch(text.strip()):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is not None:
        offset = moment.utcoffset() or datetime.timedelta()
        moment = moment.replace(tzinfo=None)
        return (moment - datetime.datetime(1970, 1, 1) - offset) // datetime.timedelta(
            microseconds=1
        )
    return (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1)


def parse_moments(name: str, cells: Any, where: Path | str, first: int) -> npt.NDArray[np.int64]:
    """`[n_rows]` microseconds since 1970, the lowest int64 for missing cells.

    Raises:
        DataError: a cell is not a date; the message names its column and row.
    """
    array = to_arrow(cells)
    if is_date(array.type):
        try:
            whole = in_microseconds(array).cast(pa.int64())
        except pa.ArrowInvalid:
            raise DataError(
                f"{where}: column {name!r}: a date is too far away for microseconds in 64 bits"
            ) from None
        moments = whole.fill_null(int(_MISSING))
        return np.asarray(np.from_dlpack(moments)) if len(moments) else np.empty(0, np.int64)
    found = texts_in(where, name, array)
    parsed = [moment_of(text) for text in found.values]
    wrong = found.first(moment is None for moment in parsed)
    if wrong is not None:
        raise DataError(
            f"{where}: column {name!r}, data row {first + wrong[0] + 1}: {shown(wrong[1])} is not a "
            "date such as 2026-01-31 or 2026-01-31 12:30"
        )
    known = np.array([_MISSING if moment is None else moment for moment in parsed], np.int64)
    return found.take(known, _MISSING)


def _numbers(moments: npt.NDArray[np.int64], times: bool) -> Numbers:
    """`[n_rows, 5]`, or `[n_rows, 7]` with times."""
    days, rest = np.divmod(moments, _DAY)
    years = (days - _DAY_2000 + rest / _DAY) / 365.25
    new_year = days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]")
    day_of_year = days - new_year.astype(np.int64)
    parts = [years[:, None], _YEAR[day_of_year], _WEEK[(days + 3) % 7]]
    return np.hstack([*parts, _TIME[rest // _MINUTE]] if times else parts)
