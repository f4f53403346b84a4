"""Batches of a table part, in an order that is a function of (seed, epoch).

Two ways to the same batches, bit for bit: gathers from tensors in memory (num_workers 0), and a
`DataLoader` over `TableDataset` (num_workers > 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runback.errors import DataError

Batch = tuple[Tensor, Tensor]


class TableDataset(Dataset[Batch]):
    """Rows of a table as (features, targets) pairs.

    Args:
        features: `[n_rows, n_features]`.
        targets: `[n_rows, n_targets]`.

    One row is `([n_features], [n_targets])`; a list of rows is one gather.
    """

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        self.features = features
        self.targets = targets

    def __getitem__(self, index: int) -> Batch:
        return self.features[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        rows = torch.as_tensor(indices)
        return self.features.index_select(0, rows), self.targets.index_select(0, rows)

    def __len__(self) -> int:
        return self.features.shape[0]


class Batches(Protocol):
    """What the loop needs from a training part."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0, group: int = 1) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on, `group` of them in one pair of tensors."""


class Order:
    """The row order of each epoch: a permutation seeded by (seed, epoch), or the table's own.

    Raises:
        DataError: on construction, where `drop_last` would leave no batch.
    """

    def __init__(
        self, n_rows: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        self.n_rows, self.batch_size = n_rows, batch_size
        self.shuffle, self.seed = shuffle, seed
        self.n_batches = n_rows // batch_size if drop_last else -(-n_rows // batch_size)
        self._generator = torch.Generator()
        if self.n_batches == 0:
            raise DataError(
                f"option batch_size: {batch_size} with drop_last leaves no batch of the "
                f"{n_rows} training rows; use a batch_size of at most {n_rows}, or drop_last false"
            )

    def rows(self, epoch: int) -> Tensor | None:
        """Row numbers `[n_rows]` int64 of an epoch, or None for the table's own order."""
        if not self.shuffle:
            return None
        self._generator.manual_seed(derive_seed(self.seed, epoch, stream=1))
        return torch.randperm(self.n_rows, generator=self._generator)


class TensorBatches:
    """Batches gathered from tensors that already lie on the training device.

    `index_select` copies whole rows: four times as fast as `features[rows]` on 32 columns.
    """

    def __init__(self, dataset: TableDataset, order: Order) -> None:
        self.features, self.targets = dataset.features, dataset.targets
        self.order = order

    def __len__(self) -> int:
        return self.order.n_batches

    def epoch(self, epoch: int, start: int = 0, group: int = 1) -> Iterator[Batch]:
        """See `Batches.epoch`; without shuffling the batches are views, not copies."""
        rows, size = self.order.rows(epoch), self.order.batch_size
        ends = [*range(start * size, len(self) * size, group * size), len(self) * size]
        if rows is None:
            for low, high in pairwise(ends):
                yield self.features[low:high], self.targets[low:high]
            return
        rows = rows.to(self.features.device, non_blocking=True)
        for low, high in pairwise(ends):
            index = rows[low:high]
            yield self.features.index_select(0, index), self.targets.index_select(0, index)


class LoaderBatches:
    """The same batches through a `DataLoader` with worker processes."""

    def __init__(
        self, dataset: Dataset[Batch], order: Order, num_workers: int, device: torch.device
    ) -> None:
        self.order, self.device = order, device
        self.dataset, self.num_workers = dataset, num_workers

    def __len__(self) -> int:
        return self.order.n_batches

    def epoch(self, epoch: int, start: int = 0, group: int = 1) -> Iterator[Batch]:
        """See `Batches.epoch`."""
        if start >= len(self):  # `split` would make one empty batch of no rows
            return
        rows, size = self.order.rows(epoch), self.order.batch_size
        rows = torch.arange(self.order.n_rows) if rows is None else rows
        picked = rows[start * size : len(self) * size].split(group * size)
        loader = DataLoader(
            self.dataset,
            batch_sampler=[part.tolist() for part in picked],
            num_workers=self.num_workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(derive_seed(self.order.seed, epoch, stream=2)),
        )
        for features, targets in loader:
            yield self._moved(features), self._moved(targets)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def _as_is(batch: Any) -> Batch:
    """The batch as `__getitems__` gathered it; there is nothing to collate."""
    rows: Batch = batch
    return rows


def derive_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """A 63-bit seed from (seed, epoch, stream): splitmix64 (Steele, Lea, Flood 2014) applied thrice.

    Neighbouring epochs get unrelated seeds, and the streams (0: global generators, 1: row order,
    2: loader workers) do not meet.
    """
    state = 0
    for part in (seed, epoch, stream):
        state = _splitmix64(state ^ (part & _MASK))
    return state >> 1


_MASK = (1 << 64) - 1


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
