"""The batches of a user's loader, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset

from runback.console.progress import say
from runback.errors import UsageError
from runback.seeding import (
    derive_seed,
    generator_states,
    kept_generators,
    restore_generators,
    seed_generators,
)

# Streams of `derive_seed`.
ORDER, WORKERS = 1, 2


class Epoch(NamedTuple):
    """The batches of an epoch that are left.

    Attributes:
        batches: each with whether it is the last.
        n_batches: of the whole epoch; 0 if unknown.
    """

    batches: Iterator[tuple[Any, bool]]
    n_batches: int


class OrderedBatches:
    """The batches of a loader, from any place of any epoch.

    The sampler of a `DataLoader` is drawn whole at the beginning of an epoch, with generators that
    are seeded by (seed, epoch), so that a place is reached without loading the batches before it.
    A loader without a sampler (of an `IterableDataset`, or any other iterable) is read from its
    beginning, and batches are skipped.

    Args:
        loader: a `DataLoader` or another iterable. A `DataLoader` is copied; its `batch_sampler`,
            `collate_fn`, workers and all other settings are kept.
        seed: of the order.

    Raises:
        UsageError: the loader is an iterator, which cannot be read again.
    """

    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        if isinstance(loader, Iterator):
            raise UsageError("batches: give the DataLoader, not an iterator over it")
        self.loader, self._seed = loader, seed
        self._drawn = _Drawn()
        self._copy = _copy_of(loader, self._drawn) if _has_sampler(loader) else None

    def epoch(self, epoch: int, start: int = 0) -> Epoch:
        """The batches of an epoch from batch `start`."""
        if self._copy is None:
            return Epoch(_with_last(self._replayed(epoch, start)), 0)
        indices = self._indices(epoch)
        self._drawn.indices = indices[start:]
        generator = self._copy.generator
        assert generator is not None
        generator.manual_seed(derive_seed(self._seed, epoch, WORKERS))
        left = zip(self._copy, range(start + 1, len(indices) + 1), strict=True)
        return Epoch(((batch, number == len(indices)) for batch, number in left), len(indices))

    def _indices(self, epoch: int) -> list[Any]:
        """The indices of each batch of an epoch."""
        assert isinstance(self.loader, DataLoader)
        sampler = _sampler_of(self.loader)
        seed = derive_seed(self._seed, epoch, ORDER)
        inner: Any = getattr(sampler, "sampler", None)
        for part in (sampler, inner):
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(seed)
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        with kept_generators():
            self._seed_order(epoch)
            return list(sampler)

    def _seed_order(self, epoch: int) -> None:
        seed_generators(self._seed, epoch, torch.device("cpu"), ORDER)

    def _replayed(self, epoch: int, start: int) -> Iterator[Any]:
        """Reads the loader with generators of its own, so that a replay draws the same numbers."""
        if start:
            say(f"batches: the loader is read again from its beginning, to batch {start}")
        with kept_generators():
            self._seed_order(epoch)
            batches = iter(self.loader)
            states = generator_states()
        for number in count():
            with kept_generators():
                restore_generators(states)
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                states = generator_states()
            if number >= start:
                yield batch


class _Drawn:
    """A sampler whose indices are replaced before each epoch; also workers that persist see them."""

    def __init__(self) -> None:
        self.indices: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def _has_sampler(loader: Iterable[Any]) -> bool:
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def _sampler_of(loader: DataLoader[Any]) -> Any:
    """What yields the indices: of a batch, or of a sample if batching is disabled."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _copy_of(loader: Iterable[Any], drawn: _Drawn) -> DataLoader[Any]:
    """A loader with the same settings that takes its indices from `drawn`."""
    assert isinstance(loader, DataLoader)
    names = (
        "dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
        "multiprocessing_context", "prefetch_factor", "persistent_workers", "in_order",
    )  # fmt: skip
    settings = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    if loader.batch_sampler is None:
        settings |= {"sampler": drawn, "batch_size": None}
    else:
        settings["batch_sampler"] = drawn
    return DataLoader(generator=torch.Generator(), **settings)


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each batch with whether it is the last, which reads one batch ahead."""
    for batch in batches:
        last = batch
        break
    else:
        return
    for batch in batches:
        yield last, False
        last = batch
    yield last, True
