"""The interface of all kinds of columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

Numbers = npt.NDArray[np.float64]


class Column(Protocol):
    """A column: its name, and the encoding of its cells as numbers."""

    @property
    def name(self) -> str: ...

    def encode(self, cells: pa.Array | pd.Series, where: Path | str, first: int) -> Numbers:
        """`[n_rows]` float64, NaN for missing cells.

        Args:
            cells: consecutive rows of the column.
            where: the table's name in errors.
            first: index of the first row in the table, from 0.

        Raises:
            DataError: a cell is not of this kind; the message names its column and row.
        """
