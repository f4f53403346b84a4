"""Columns of truth values: true and false, or two texts such as yes and no."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from runback.columns import stored as entries
from runback.columns.cells import distinct, shown, texts_in, to_arrow
from runback.columns.column import Numbers
from runback.errors import DataError

# Without regard to case; a column is found to be yes/no if its texts are of one pair.
PAIRS = (("no", "yes"), ("false", "true"), ("n", "y"), ("f", "t"), ("off", "on"))
_TRUTH = {text: number for pair in (*PAIRS, ("0", "1")) for number, text in enumerate(pair)}


@dataclass(frozen=True)
class BooleanColumn:
    """A column of truth values, as 0 and 1; see `runback.columns.column.Column`.

    Attributes:
        usual: the more frequent value in the training rows, 0 or 1; it replaces missing cells.
        missing: whether the column has a second number: 1 for a missing cell, otherwise 0.
        raw: "boolean" or "text".
    """

    kind: ClassVar[str] = "boolean"
    name: str
    usual: int
    missing: bool
    raw: str

    codes: ClassVar[int] = 0
    unused_codes: ClassVar[tuple[int, ...]] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Column.parts`."""
        return (self.name, f"{self.name} is missing") if self.missing else (self.name,)

    @classmethod
    def fit(cls, name: str, cells: pa.Array) -> Self:
        """See `Column.fit`."""
        found = distinct(cells)
        wrong = found.first(truth_of(text) is None for text in found.values)
        if wrong is not None:
            raise ValueError(_not_truth(name, wrong[0] + 1, wrong[1]))
        counts = [0, 0]
        for text, count in found.counts().items():
            counts[truth_of(text) or 0] += count
        raw = "boolean" if pa.types.is_boolean(to_arrow(cells).type) else "text"
        return cls(name, int(counts[1] > counts[0]), found.n_missing > 0, raw)

    def encode(self, cells: Any, where: Path | str, first: int) -> Numbers:
        """See `Column.encode`."""
        found = texts_in(where, self.name, cells)
        numbers = [truth_of(text) for text in found.values]
        wrong = found.first(number is None for number in numbers)
        if wrong is not None:
            raise DataError(f"{where}: {_not_truth(self.name, first + wrong[0] + 1, wrong[1])}")
        known = np.array([0 if n is None else n for n in numbers], np.float64)
        truth = found.take(known, self.usual)[:, None]
        return np.hstack((truth, (found.codes < 0)[:, None])) if self.missing else truth

    def as_json(self) -> dict[str, Any]:
        """See `Column.as_json`."""
        return {
            "kind": self.kind, "name": self.name, "usual": self.usual, "missing": self.missing,
            "raw": self.raw,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """See `Column.from_json`."""
        raw = entries.text(stored, "raw")
        if raw not in ("boolean", "text"):
            raise ValueError(f"the entry 'raw' is {raw!r}")
        return cls(
            entries.text(stored, "name"),
            entries.whole(stored, "usual", 0, 1),
            entries.flag(stored, "missing"),
            raw,
        )


def truth_of(text: str) -> int | None:
    """0 or 1; None if a text is neither yes nor no."""
    return _TRUTH.get(text.strip().lower())


def are_truths(texts: Iterable[str]) -> bool:
    """Whether all texts are of one pair, such as yes and no."""
    plain = {text.strip().lower() for text in texts}
    return any(plain <= set(pair) for pair in PAIRS)


def _not_truth(name: str, row: int, text: str) -> str:
    return f"column {name!r}, data row {row}: {shown(text)} is neither yes nor no"
