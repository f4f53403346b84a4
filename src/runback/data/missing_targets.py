"""Rows without a target: refused, or marked to be left out of the table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from runback.columns.cells import distinct
from runback.data.raw import RawTable
from runback.errors import DataError

REFUSE = "refuse"
Flags = npt.NDArray[np.bool_]


def rows_with_targets(raw: RawTable, how: str = REFUSE) -> Tensor | None:
    """The rows that have all targets.

    The others get the targets of such a row. Their cells can then be checked as all are, under the
    row numbers of the file, until the rows are left out.

    Args:
        raw: the table; cells of targets are changed in place.
        how: the option `missing_target`, "refuse" or "drop".

    Returns:
        Sorted row numbers `[n_kept]` int64; None if all rows have all targets.

    Raises:
        DataError: a row has no target, and `how` is "refuse"; or no row has one.
    """
    flags = {name: found for name in raw.columns.targets if (found := _missing(raw, name)).any()}
    if not flags:
        return None
    missing = np.logical_or.reduce([*flags.values()])
    if how == REFUSE:
        raise DataError(f"{raw.path}: {_refusal(flags, missing)}")
    kept = np.flatnonzero(~missing)
    if not len(kept):
        raise DataError(f"{raw.path}: no row has a value in {', '.join(map(repr, flags))}")
    _fill(raw, np.where(missing, kept[0], np.arange(len(missing))))
    return torch.from_numpy(kept)


def _missing(raw: RawTable, name: str) -> Flags:
    """Whether each row has no value in a target."""
    cells = raw.column(name)
    if isinstance(cells, np.ndarray):
        return np.isnan(cells) if name in raw.incomplete else np.zeros(0, np.bool_)
    try:
        return distinct(cells).codes < 0
    except TypeError:  # cells that have no text are refused later, by their type
        return np.zeros(0, np.bool_)


def _refusal(flags: dict[str, Flags], missing: Flags) -> str:
    row, name = min((int(np.argmax(found)), name) for name, found in flags.items())
    return (
        f"column {name!r}, data row {row + 1}: has no value; {missing.sum()} of {len(missing)} rows "
        "have no target, and a training with --missing-target drop leaves them out"
    )


def _fill(raw: RawTable, rows: npt.NDArray[np.int64]) -> None:
    """Replaces the targets of each row by those of the row in `rows`."""
    names, tensor = raw.numbers[1].names, raw.numbers[1].tensor
    if names:
        tensor.copy_(tensor[torch.from_numpy(rows)])
    for name in raw.columns.targets:
        if name in raw.cells:
            raw.cells[name] = raw.cells[name].take(pa.array(rows))
