"""Forward passes over any number of rows in fixed blocks. Imports no pandas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Every command, the server and pyfunc compute rows in blocks of this size from the first row, so
# the same table gives bit-identical results everywhere. The last bit of a row can depend on the
# other rows of its batch: BLAS sums in another order for another shape. Padding to fixed blocks is
# not enough (measured: for 6 of 14 modules the bits still depended on the position in the block);
# one row at a time would be, but takes 12 to 28 s for a million rows instead of 0.003 to 0.4 s.
CHUNK_ROWS = 65_536
# Samples of more than one dimension: fewer, as a convolution holds many times their numbers.
CHUNK_NUMBERS = 1 << 21
# On some processors (measured: with AVX-512), the bits also depend on the number of threads among
# which the rows are divided. Up to about this many multiplications for a row, one thread computes
# them: a block then takes it half a second.
ONE_THREAD_PRODUCTS = 1 << 19


def chunk_rows(x: Tensor) -> int:
    """The rows of a block of `[n, ...]`."""
    if x.dim() < 3:
        return CHUNK_ROWS
    return max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // math.prod(x.shape[1:])))


@torch.no_grad()
def batched_forward(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)` for `[n, ...]`, n > 0, in blocks of `chunk_rows`; returned on the CPU."""
    device = next(module.parameters()).device
    with _same_threads(module, x):
        return torch.cat([module(part.to(device)).cpu() for part in x.split(chunk_rows(x))])


@contextmanager
def _same_threads(module: nn.Module, x: Tensor) -> Iterator[None]:
    """One CPU thread for a small module, however many the process uses."""
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    threads = torch.get_num_threads()
    if threads == 1 or n_weights * math.prod(x.shape[2:]) > ONE_THREAD_PRODUCTS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def predict_rows(module: nn.Module, features: Tensor) -> Tensor:
    """`batched_forward` in eval mode; the module's mode is restored."""
    was_training = module.training
    module.eval()
    predicted = batched_forward(module, features)
    module.train(was_training)
    return predicted
