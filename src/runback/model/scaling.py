"""Scaling of features and targets inside the module: fitted on training rows, stored in buffers."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from runback.errors import DataError
from runback.model.quantiles import Quantiles


class Scale(nn.Module):
    """`(x - offset) / scale`, column by column: `[n, n_columns] -> [n, n_columns]`.

    The scale of a column that is constant in the training rows is 1, so that it maps to 0, not NaN.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(n_columns))
        self.register_buffer("scale", torch.ones(n_columns))

    def forward(self, x: Tensor) -> Tensor:
        """Scales each column."""
        return (x - self.offset) / self.scale

    def undone(self, x: Tensor) -> Tensor:
        """The inverse of `forward`."""
        return x * self.scale + self.offset

    def fit(
        self, x: Tensor, how: str, unscaled: Collection[int] = (), option: str = "normalize"
    ) -> None:
        """Sets the buffers from training rows, computed in float64.

        Args:
            x: `[n_train, n_columns]`, the training rows.
            how: "standard" (mean and population standard deviation) or "minmax" (to [0, 1]).
            unscaled: the columns that stay as they are, such as codes of categories.
            option: the name in errors, "normalize" for features or "normalize_target".

        Raises:
            DataError: the range of a column overflows the buffers' dtype.
        """
        most = torch.finfo(self.scale.dtype).max
        for index, column in enumerate(x.detach().cpu().unbind(1)):  # one at a time: less memory
            if index in unscaled:
                continue
            offset_and_scale = _offset_and_scale(column.double(), how, most)
            if offset_and_scale is None:
                kind = "feature" if option == "normalize" else "target"
                raise DataError(
                    f"option {option}: the range of {kind} column {index + 1} is too large for "
                    f"{str(self.scale.dtype).removeprefix('torch.')}; divide it by a constant"
                )
            self.offset[index], self.scale[index] = offset_and_scale
        self.scale[self.scale == 0] = 1.0  # underflow in the buffer's dtype


def _offset_and_scale(column: Tensor, how: str, most: float) -> tuple[float, float] | None:
    """A float64 column's offset and scale; None if its range is larger than `most`."""
    low, high = (value.item() for value in column.aminmax())
    if low == high:  # mean and std of equal values have rounding errors
        return low, 1.0
    offset, scale = low, high - low
    if how == "standard":
        offset, scale = column.mean().item(), column.std(correction=0).item()
    return (offset, scale) if high - low <= most and math.isfinite(scale) else None


class Scaled(nn.Module):
    """A module with a `Scale`, or `Quantiles`, in front of it.

    Its input is the encoded tensor of a table.
    """

    def __init__(self, n_features: int, module: nn.Module, how: str = "standard") -> None:
        super().__init__()
        self.scale = Quantiles(n_features) if how == "quantile" else Scale(n_features)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Scales, then applies the module."""
        out: Tensor = self.module(self.scale(x))
        return out


class TargetScaled(nn.Module):
    """A module that is trained on scaled targets; the output is in the targets' own units.

    The training computes the cost from `module` and the targets scaled by `target`: undoing the
    scaling first would lose bits of small differences of large targets. Targets that are arrays have
    one offset and one scale (`n_targets` is 1).
    """

    def __init__(self, n_targets: int, module: nn.Module) -> None:
        super().__init__()
        self.target = Scale(n_targets)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Applies the module, then undoes the scaling: `[n, ...] -> [n, n_targets]`, or arrays."""
        return self.target.undone(self.module(x))
