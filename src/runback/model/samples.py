"""Samples of more than one dimension, such as images: their input, scaling, flattening and output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runback.errors import DataError
from runback.model.scaling import Scale


class Flattened(nn.Module):
    """A built-in module on the numbers of a sample, row by row: `[n, ...] -> [n, ...]`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Flattens, then applies the module."""
        out: Tensor = self.module(x.flatten(1))
        return out


class Reshaped(nn.Module):
    """A built-in module whose outputs are the numbers of arrays: `[n, n_features] -> [n, *shape]`."""

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.module, self.shape = module, tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the module, then arranges its outputs."""
        out: Tensor = self.module(x).unflatten(1, self.shape)
        return out


class ScaledSamples(nn.Module):
    """A module with a scaling in front of it, which has one offset and scale for each channel.

    Args:
        n_channels: the size of the first dimension of a sample.
        module: takes `[n, n_channels, ...]`.
    """

    def __init__(self, n_channels: int, module: nn.Module) -> None:
        super().__init__()
        self.scale = Scale(n_channels)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Scales each channel, then applies the module."""
        shape = (-1, *(1,) * (x.dim() - 2))
        scaled = (x - self.scale.offset.view(shape)) / self.scale.scale.view(shape)
        out: Tensor = self.module(scaled)
        return out

    def fit(self, x: Tensor, how: str) -> None:
        """Sets the scaling from training samples `[n_train, n_channels, ...]`; see `Scale.fit`."""
        self.scale.fit(x.movedim(1, -1).flatten(0, -2), how)


def samples_to_tensor(samples: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Samples as `[n, *shape]`, checked as those of a training are.

    Args:
        samples: an array or a tensor of real numbers.
        shape: of a sample.
        dtype: of the result.

    Raises:
        DataError: another shape, or a value is not a finite number.
    """
    try:
        x = samples if isinstance(samples, Tensor) else torch.from_numpy(np.array(samples))
    except (TypeError, ValueError):
        raise DataError(f"samples: a {type(samples).__name__} is not an array of numbers") from None
    if x.is_complex():
        raise DataError("samples: the numbers are complex; real ones are needed")
    if tuple(x.shape[1:]) != tuple(shape) or not x.dim():
        needed = ", ".join(["n", *map(str, shape)])
        raise DataError(f"samples: the shape is {list(x.shape)}, and the model takes [{needed}]")
    x = x.detach().cpu().to(dtype)
    finite = x.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        raise DataError(f"sample {int((~finite).nonzero()[0])} has a value that is not finite")
    return x
