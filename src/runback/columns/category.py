"""Columns of categories: each value is a code, and the module expands or embeds the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from runback.columns import stored as entries
from runback.columns.cells import distinct, texts_in
from runback.columns.column import Numbers

# A value in fewer training rows than this, or than one row in 100 of a small table, is rare.
RARE_ROWS = 10
# The code of rare values and of values that no training row has.
OTHER = 0
# The most frequent values have codes of their own; a one-hot matrix of more would not fit in memory.
MAX_CATEGORIES = 256


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories, as codes; see `runback.columns.column.Column`.

    Code 0 is for all values that are rare in the training rows or not in them, 1, 2, ... are the
    categories in sorted order, and the last code is for missing cells if training rows have any.

    Attributes:
        categories: the texts with codes of their own, sorted.
        rare: whether training rows have code 0.
        missing: whether missing cells have a code of their own; otherwise they have code 0.
    """

    kind: ClassVar[str] = "category"
    name: str
    categories: tuple[str, ...]
    rare: bool
    missing: bool

    raw: ClassVar[str] = "text"

    @property
    def codes(self) -> int:
        """See `Column.codes`."""
        return 1 + len(self.categories) + self.missing

    @property
    def unused_codes(self) -> tuple[int, ...]:
        """See `Column.unused_codes`."""
        return () if self.rare else (OTHER,)

    @property
    def parts(self) -> tuple[str, ...]:
        """See `Column.parts`."""
        return (self.name,)

    @classmethod
    def fit(cls, name: str, cells: pa.Array) -> Self:
        """See `Column.fit`."""
        found = distinct(cells)
        counts = found.counts()
        rare = rare_below(len(found.codes))
        frequent = sorted((-count, text) for text, count in counts.items() if count >= rare)
        kept = sorted(text for _, text in frequent[:MAX_CATEGORIES])
        return cls(name, tuple(kept), len(kept) < len(counts), found.n_missing > 0)

    def encode(self, cells: Any, where: Path | str, first: int) -> Numbers:
        """See `Column.encode`; any text is accepted."""
        found = texts_in(where, self.name, cells)
        code_of = {text: code for code, text in enumerate(self.categories, 1)}
        codes = np.array([code_of.get(text, OTHER) for text in found.values], np.float64)
        encoded: Numbers = found.take(codes, self.codes - 1 if self.missing else OTHER)
        return encoded[:, None]

    def as_json(self) -> dict[str, Any]:
        """See `Column.as_json`."""
        return {
            "kind": self.kind, "name": self.name, "categories": list(self.categories),
            "rare": self.rare, "missing": self.missing,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """See `Column.from_json`."""
        return cls(
            entries.text(stored, "name"),
            entries.distinct_texts(stored, "categories", MAX_CATEGORIES),
            entries.flag(stored, "rare"),
            entries.flag(stored, "missing"),
        )


def rare_below(n_rows: int) -> int:
    """The number of training rows that a value needs for a code of its own."""
    return min(RARE_ROWS, max(2, n_rows // 100))
