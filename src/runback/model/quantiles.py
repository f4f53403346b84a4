"""Feature scaling by ranks: clipped empirical quantiles, fitted on training rows, in buffers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from runback.errors import DataError

# A power of two: the search halves the knots. With more, outliers move the ranks less, and the
# buffers grow.
KNOTS = 256


class Quantiles(nn.Module):
    """The rank of each value among the training rows, from -1 to 1: `[n, n_columns] -> [n, n_columns]`.

    A column has up to `KNOTS` knots, values at evenly spaced ranks of its sorted training rows. A
    value between two knots gets a rank by linear interpolation, a value outside of them -1 or 1. A
    value that occurs at several of the ranks gets their mean; a constant column becomes 0.

    Attributes:
        knots: `[n_columns, KNOTS]`, in ascending order; the last one is repeated at the end.
        ranks: `[n_columns, KNOTS]`, of the knots.
        is_ranked: `[n_columns]` bool; the other columns stay as they are.
    """

    knots: Tensor
    ranks: Tensor
    is_ranked: Tensor

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-1, 1, KNOTS).repeat(n_columns, 1))
        self.register_buffer("ranks", torch.linspace(-1, 1, KNOTS).repeat(n_columns, 1))
        self.register_buffer("is_ranked", torch.ones(n_columns, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Replaces each value by its rank."""
        columns = x.t().contiguous()
        upper = positions(self.knots, columns).clamp(min=1)
        low, high = (self.knots.gather(1, index) for index in (upper - 1, upper))
        start, end = (self.ranks.gather(1, index) for index in (upper - 1, upper))
        width = torch.where(high > low, high - low, 1.0)
        share = ((columns - low) / width).clamp(0.0, 1.0)
        return torch.where(self.is_ranked, (start + (end - start) * share).t(), x)

    def fit(self, x: Tensor, how: str, unscaled: Collection[int] = ()) -> None:
        """Sets the buffers from training rows; arguments and errors as in `Scale.fit`."""
        for index, column in enumerate(x.detach().cpu().unbind(1)):  # one at a time: less memory
            if index in unscaled:
                self.is_ranked[index] = False
                continue
            knots, ranks = _fitted(column.to(self.knots.dtype))
            if not (knots[-1] - knots[0]).isfinite():
                raise DataError(
                    f"option normalize: the range of feature column {index + 1} is too large for "
                    f"{str(self.knots.dtype).removeprefix('torch.')}; divide it by a constant"
                )
            self.knots[index], self.ranks[index] = _padded(knots), _padded(ranks)


def positions(knots: Tensor, columns: Tensor) -> Tensor:
    """The number of knots that are lower than each value: `[n_columns, n]` int64, below `KNOTS`."""
    if torch.compiler.is_exporting():
        return halved(knots, columns)
    return torch.searchsorted(knots, columns).clamp(max=KNOTS - 1)


def halved(knots: Tensor, columns: Tensor) -> Tensor:
    """`positions` in operators that ONNX has."""
    found = torch.zeros_like(columns, dtype=torch.int64)
    step = KNOTS // 2
    while step:
        is_lower = knots.gather(1, found + (step - 1)) < columns
        found = found + is_lower.to(torch.int64) * step
        step //= 2
    return found


def _fitted(column: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct knots of a column `[n_train]`, and their ranks from -1 to 1."""
    last = len(column) - 1
    rows = torch.linspace(0, last, min(KNOTS, last + 1), dtype=torch.float64).round().long()
    knots, of_row, counts = torch.unique_consecutive(
        column.sort().values[rows], return_inverse=True, return_counts=True
    )
    sums = torch.zeros(len(knots), dtype=torch.float64).index_add(0, of_row, rows.double())
    return knots, sums / counts / max(last, 1) * 2 - 1 if last else torch.zeros(1)


def _padded(values: Tensor) -> Tensor:
    """`[KNOTS]`, the last value repeated."""
    return torch.cat((values, values[-1:].expand(KNOTS - len(values))))
