"""Warnings about a table before its training: columns that give the target away."""

from __future__ import annotations

import torch
from torch import Tensor

from runback.columns.layout import EncodedColumn

MIN_ROWS = 20  # fewer rows agree by chance
MAX_ROWS = 20_000
SAME = 0.999999  # an absolute correlation
ROWS_OF_A_VALUE = 10  # on average, for values that stand for one another


def leaking_columns(
    layout: tuple[EncodedColumn, ...], features: Tensor, targets: Tensor, rows: Tensor
) -> list[str]:
    """The names of columns, each of which alone determines a target.

    A number does if it correlates fully with the target. Any column does if its values and those
    of the target stand for one another, each in several rows. In a table of one feature none is
    named: a function of it is what there is to learn.

    Args:
        layout: of the features.
        features: `[n_rows, n_features]`.
        targets: `[n_rows, n_targets]`; of arrays none is named.
        rows: the training rows, of which at most `MAX_ROWS` are read.
    """
    if len({part.column for part in layout}) < 2 or len(rows) < MIN_ROWS or targets.dim() > 2:
        return []
    rows = rows[:: -(-len(rows) // MAX_ROWS)]
    x, y = features.index_select(0, rows).double(), targets.index_select(0, rows).double()
    names: dict[str, None] = {}
    for part in layout:
        for target in y.unbind(1):
            if _gives_away(x[:, part.position], target, is_number=not part.n_categories):
                names[part.column] = None
    return list(names)


def _gives_away(x: Tensor, y: Tensor, *, is_number: bool) -> bool:
    return (is_number and abs(_correlation(x, y)) > SAME) or _stand_for_one_another(x, y)


def _correlation(x: Tensor, y: Tensor) -> float:
    """0 if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def _stand_for_one_another(x: Tensor, y: Tensor) -> bool:
    n_x, n_y = len(x.unique()), len(y.unique())
    if n_x != n_y or not 2 <= n_x <= len(x) // ROWS_OF_A_VALUE:
        return False
    return len(torch.stack([x, y]).unique(dim=1)[0]) == n_x
