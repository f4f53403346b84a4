"""The interface of all kinds of columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]


class Column(Protocol):
    """A feature column: its name and the encoding of its cells as numbers.

    Columns are fitted on training rows, and stored as JSON with the model.

    Attributes:
        kind: the name of the kind, as in the option `columns`.
        name: of the column.
        missing: whether training rows had missing cells, which then have a number of their own.
        codes: for a category, how many codes its number has, from 0; otherwise 0.
        unused_codes: codes that no training row has; their weights cannot be trained.
        raw: the type of the cells: "number", "boolean" or "text".
    """

    kind: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def missing(self) -> bool: ...
    @property
    def codes(self) -> int: ...
    @property
    def unused_codes(self) -> tuple[int, ...]: ...
    @property
    def raw(self) -> str: ...

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the numbers that a cell becomes, in the order of `encode`."""

    @classmethod
    def fit(cls, name: str, cells: pa.Array) -> Self:
        """The column for the cells of all training rows.

        Raises:
            ValueError: a cell is not of this kind.
        """

    def encode(self, cells: Any, where: Path | str, first: int) -> Numbers:
        """`[n_rows, len(parts)]` floating-point numbers; NaN is a missing cell that is refused.

        Args:
            cells: consecutive rows of the column: an Arrow array, a pandas Series, or a numpy array
                of numbers with NaN for missing cells.
            where: the table's name in errors.
            first: index of the first row in the table, from 0.

        Raises:
            DataError: a cell is not of this kind; the message names its column and row.
        """

    def as_json(self) -> dict[str, Any]:
        """The column as JSON values."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Parses the output of `as_json`.

        Raises:
            ValueError: an entry is missing or invalid.
        """
