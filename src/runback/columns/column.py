"""What a column of a table is, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd  # half a second, which a training does not need

Numbers = npt.NDArray[np.float64]


class Column(Protocol):
    """A column with its name, and the way from its cells to numbers."""

    @property
    def name(self) -> str: ...

    def encode(self, cells: pa.Array | pd.Series, where: Path | str, first: int) -> Numbers:
        """`[n_rows]` float64, NaN for missing cells.

        Args:
            cells: some rows of the column, as Arrow or pandas hold them.
            where: the table's name in an error.
            first: the number of the first row in the table, counted from 0.

        Raises:
            DataError: a cell is none of this kind; its column and row are named.
        """
