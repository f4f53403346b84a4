"""The order of a user's loader is a function of (seed, epoch), from any place in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
)

from runback.errors import UsageError
from runback.own_loop.batches import OrderedBatches
from runback.seeding import generator_states


class Shuffled(Sampler[int]):
    """Draws from Python's and NumPy's generators."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        rows = list(range(self.n))
        random.shuffle(rows)
        yield from np.random.permutation(rows).tolist()


class Stream(IterableDataset[float]):
    """Draws its order from torch's global generator, number by number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[float]:
        for _ in range(self.n):
            yield torch.rand(()).item()


def loaders(n: int, size: int) -> dict[str, DataLoader[Any]]:
    data = TensorDataset(torch.arange(n))
    own = RandomSampler(data, generator=torch.Generator())
    return {
        "shuffle": DataLoader(data, size, shuffle=True),
        "generator": DataLoader(data, size, shuffle=True, generator=torch.Generator()),
        "sampler": DataLoader(data, size, sampler=Shuffled(n)),
        "batch_sampler": DataLoader(data, batch_sampler=BatchSampler(own, size, drop_last=True)),
        "samples": DataLoader(data, batch_size=None, shuffle=True),
        "stream": DataLoader(Stream(n), size),
    }


def read(loader: DataLoader[Any], epoch: int, start: int, seed: int = 3) -> list[Any]:
    batches = OrderedBatches(loader, seed).epoch(epoch, start).batches
    return [[value.tolist() for value in batch] if isinstance(batch, list) else batch.tolist()
            for batch, _ in batches]  # fmt: skip


@pytest.mark.parametrize("kind", loaders(2, 1))
@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 12), size=st.integers(1, 5), epoch=st.integers(0, 3), data=st.data())
def test_a_later_start_gives_the_same_batches(
    kind: str, n: int, size: int, epoch: int, data: st.DataObject
) -> None:
    loader = loaders(n, size)[kind]
    whole = read(loader, epoch, 0)
    start = data.draw(st.integers(0, len(whole)))
    torch.rand(data.draw(st.integers(0, 3)))  # what else draws has no influence
    assert read(loaders(n, size)[kind], epoch, start) == whole[start:]


@pytest.mark.parametrize("kind", loaders(2, 1))
def test_the_global_generators_are_left_alone(kind: str) -> None:
    before = generator_states()
    read(loaders(9, 2)[kind], 1, 1)
    after = generator_states()
    assert before["python"] == after["python"]
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"]["key"], after["numpy"]["key"])


@pytest.mark.parametrize("kind", ["shuffle", "generator", "sampler", "samples", "stream"])
def test_epochs_and_seeds_have_orders_of_their_own(kind: str) -> None:
    loader = loaders(30, 30 if kind != "samples" else 1)[kind]
    orders = [read(loader, 0, 0), read(loader, 1, 0), read(loader, 0, 0, seed=4)]
    assert all(orders[i] != orders[j] for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("kind", loaders(2, 1))
def test_the_last_batch_is_known(kind: str) -> None:
    found = [is_last for _, is_last in OrderedBatches(loaders(6, 2)[kind], 0).epoch(0).batches]
    assert found[-1] and not any(found[:-1])


def test_every_sample_is_read_once_in_an_epoch() -> None:
    loader = loaders(23, 4)["shuffle"]
    rows = [row for batch in read(loader, 2, 0) for row in batch[0]]
    assert sorted(rows) == list(range(23))


def test_persistent_workers_see_the_order_of_each_epoch() -> None:
    data = TensorDataset(torch.arange(10))
    plain = DataLoader(data, 2, shuffle=True)
    with_workers = OrderedBatches(
        DataLoader(data, 2, shuffle=True, num_workers=1, persistent_workers=True), 3
    )
    for epoch in range(2):
        found = [[v.tolist() for v in batch] for batch, _ in with_workers.epoch(epoch, 1).batches]
        assert found == read(plain, epoch, 1)


def test_an_iterator_is_refused() -> None:
    with pytest.raises(UsageError, match="not an iterator"):
        OrderedBatches(iter([1, 2]), 0)
