"""Batches: both implementations give the same rows, in an order set by seed and epoch only."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runback.data.batches import (
    Batch,
    LoaderBatches,
    Order,
    TableDataset,
    TensorBatches,
    derive_seed,
)
from runback.errors import DataError

CPU = torch.device("cpu")


def table(n_rows: int) -> TableDataset:
    generator = torch.Generator().manual_seed(1)
    return TableDataset(
        torch.randn(n_rows, 3, generator=generator), torch.randn(n_rows, 2, generator=generator)
    )


def order(
    n_rows: int, size: int, *, shuffle: bool = True, drop: bool = False, seed: int = 5
) -> Order:
    return Order(n_rows, size, shuffle=shuffle, drop_last=drop, seed=seed)


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for p, q in zip(one, two, strict=True) for a, b in zip(p, q, strict=True)
    )


def test_a_dataset_gives_single_rows_and_batches() -> None:
    data = table(10)
    assert len(data) == 10
    x, y = data[3]
    assert (x.shape, y.shape) == ((3,), (2,))
    features, targets = data.__getitems__([3, 1, 3])
    assert torch.equal(features, data.features[[3, 1, 3]])
    assert torch.equal(targets, torch.stack([data[i][1] for i in (3, 1, 3)]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loader_gives_the_same_batches_bit_for_bit(workers: int) -> None:
    data = table(23)
    for shuffle, drop in itertools.product((True, False), repeat=2):
        rows = order(23, 5, shuffle=shuffle, drop=drop)
        here, there = TensorBatches(data, rows), LoaderBatches(data, rows, workers, CPU)
        assert len(here) == len(there) == (4 if drop else 5)
        for epoch, start in ((1, 0), (2, 3), (2, len(here))):
            expected = list(here.epoch(epoch, start))
            assert len(expected) == len(here) - start
            assert same(list(there.epoch(epoch, start)), expected)
            groups = list(there.epoch(epoch, start, group=2))
            assert len(groups) == -(-len(expected) // 2)
            assert same(ungrouped(groups, 5), expected)


@given(
    st.integers(1, 40), st.integers(1, 50), st.booleans(), st.booleans(), st.integers(0, 2**63 - 1),
    st.integers(1, 10**9),
)  # fmt: skip
def test_an_epoch_has_every_row_once_from_any_start(
    n_rows: int, size: int, shuffle: bool, drop: bool, seed: int, epoch: int
) -> None:
    data = TableDataset(torch.arange(n_rows).view(-1, 1), torch.arange(n_rows).view(-1, 1))
    if drop and size > n_rows:
        with pytest.raises(DataError):
            order(n_rows, size, shuffle=shuffle, drop=drop, seed=seed)
        return
    batches = TensorBatches(data, order(n_rows, size, shuffle=shuffle, drop=drop, seed=seed))
    whole = list(batches.epoch(epoch))
    assert len(whole) == len(batches)
    seen = torch.cat([x for x, _ in whole]).flatten().tolist()
    assert len(seen) == len(set(seen)) == (n_rows // size * size if drop else n_rows)
    assert shuffle or seen == list(range(len(seen)))
    assert all(torch.equal(x, y) for x, y in whole)
    assert all(len(x) == size for x, _ in whole[: -1 if not drop else None])
    for start in (0, len(whole) // 2, len(whole)):
        assert same(list(batches.epoch(epoch, start)), whole[start:])
        assert same(ungrouped(batches.epoch(epoch, start, group=3), size), whole[start:])


def ungrouped(groups: Iterable[Batch], size: int) -> list[Batch]:
    return [pair for x, y in groups for pair in zip(x.split(size), y.split(size), strict=True)]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    batches = TensorBatches(table(50), order(50, 10))
    first, second = list(batches.epoch(1)), list(batches.epoch(2))
    assert not same(first, second)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    list(batches.epoch(7))
    assert same(list(batches.epoch(1)), first)
    assert same(list(TensorBatches(table(50), order(50, 10)).epoch(2)), second)
    assert not same(list(TensorBatches(table(50), order(50, 10, seed=6)).epoch(1)), first)


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_batches_keep_the_global_generators(kind: str) -> None:
    data, rows = table(20), order(20, 5)
    batches = TensorBatches(data, rows) if kind == "tensor" else LoaderBatches(data, rows, 1, CPU)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    list(batches.epoch(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_a_batch_larger_than_the_rows_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        order(160, 161, drop=True)
    assert str(caught.value) == (
        "option batch_size: 161 with drop_last leaves no batch of the 160 training rows; "
        "use a batch_size of at most 160, or drop_last false"
    )
    assert order(160, 160, drop=True).n_batches == 1
    assert order(160, 161, drop=False).n_batches == 1


def test_derived_seeds_are_distinct() -> None:
    seeds = [
        derive_seed(seed, epoch, stream)
        for seed in (0, 1, 2, 2**63 - 1) for epoch in range(500) for stream in range(3)
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 1, 1) == 2533777038635110281, "the order of recorded runs would change"
