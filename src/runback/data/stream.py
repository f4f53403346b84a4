"""Batches of an IterableDataset, in its own order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import torch

from runback.data.batches import Batch, Order
from runback.data.user_dataset import DatasetRows
from runback.errors import DataError
from runback.seeding import kept_generators


class StreamBatches:
    """The batches of the training rows; each epoch reads the dataset from its beginning.

    Args:
        rows: of an IterableDataset.
        order: of a training without shuffling.
        device: of the batches.
    """

    def __init__(self, rows: DatasetRows, order: Order, device: torch.device) -> None:
        self.rows, self.order, self.device = rows, order, device

    def __len__(self) -> int:
        return self.order.n_batches

    def epoch(self, epoch: int, start: int = 0, group: int = 1) -> Iterator[Batch]:
        """See `Batches.epoch`.

        Raises:
            DataError: the dataset ends earlier than when it was first read.
        """
        size, samples = self.order.batch_size, self.rows.stream()
        self._skip(samples, start * size)
        total = min(len(self) * size, len(self.rows))
        for low, high in pairwise([*range(start * size, total, group * size), total]):
            part = list(islice(samples, high - low))
            if len(part) < high - low:
                raise DataError(
                    f"{self.rows.dataset.data}: the dataset ends before its {len(self.rows.dataset)} "
                    "samples, which it had when it was first read"
                )
            x, y = self.rows.batch(part)
            yield x.to(self.device), y.to(self.device)

    def _skip(self, samples: Iterator[object], count: int) -> None:
        """Reads samples of an epoch that is resumed; the generators stay as they were restored."""
        with kept_generators():
            for _ in islice(samples, count):
                pass
