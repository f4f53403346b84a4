"""Batches of a table part, in an order that is a function of (seed, epoch).

Two bit-identical implementations: `TensorBatches` gathers from tensors in memory (num_workers 0),
`LoaderBatches` uses a `DataLoader` (num_workers > 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runback.errors import DataError
from runback.seeding import derive_seed

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
    """The batches of the training part."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0, group: int = 1) -> Iterator[Batch]:
        """Yields the batches of an epoch from batch `start`, `group` batches in one pair of tensors."""


class Order:
    """The row order of each epoch: a permutation seeded by (seed, epoch), or the table's order.

    Raises:
        DataError: on construction, if `drop_last` leaves no batch.
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
        """Row numbers `[n_rows]` int64 of an epoch, or None for the table's order."""
        if not self.shuffle:
            return None
        self._generator.manual_seed(derive_seed(self.seed, epoch, stream=1))
        return torch.randperm(self.n_rows, generator=self._generator)


class TensorBatches:
    """Batches gathered from tensors on the training device.

    `index_select` is four times as fast as `features[rows]` on 32 columns.
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
        if start >= len(self):  # `split` would return one empty batch
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
    """Returns the batch unchanged; `__getitems__` has gathered it."""
    rows: Batch = batch
    return rows
