"""Scaling by ranks: fitted on training rows only, clipped, and the same in every form."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor

from runback.config import TrainConfig
from runback.errors import DataError
from runback.model.quantiles import KNOTS, Quantiles, halved, positions
from runback.model.scaling import Scaled
from runback.training.setup import prepare


def fitted(*columns: list[float] | Tensor, dtype: torch.dtype = torch.float64) -> Quantiles:
    x = torch.stack([torch.as_tensor(column, dtype=dtype) for column in columns], dim=1)
    module = Quantiles(x.shape[1]).to(dtype)
    module.fit(x, "quantile")
    return module


def ranked(module: Quantiles, *values: float) -> list[float]:
    x = torch.tensor(values, dtype=module.knots.dtype)[:, None]
    return module(x)[:, 0].tolist()


def test_ranks_are_those_of_scikit_learn() -> None:
    """With as many rows as give both the same knots."""
    x = np.random.default_rng(0).lognormal(size=((KNOTS - 1) * 4 + 1, 3))
    theirs = QuantileTransformer(n_quantiles=KNOTS, subsample=None).fit(x)
    asked = np.random.default_rng(1).lognormal(size=(500, 3)) * 2 - 0.5
    ours = fitted(*torch.from_numpy(x).T)(torch.from_numpy(asked))
    expected = torch.from_numpy(theirs.transform(asked)) * 2 - 1
    assert torch.allclose(ours, expected, rtol=0, atol=1e-9)
    assert (ours.min(), ours.max()) == (-1.0, 1.0)


def test_values_outside_of_the_training_rows_are_clipped() -> None:
    module = fitted([0.0, 1.0, 10.0])
    assert ranked(module, -1e30, 0.0, 0.5, 1.0, 5.5, 10.0, 1e30) == [
        -1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0,
    ]  # fmt: skip


def test_equal_values_get_the_mean_of_their_ranks() -> None:
    assert ranked(fitted([0.0, 0.0, 0.0, 1.0, 1.0]), 0.0, 1.0) == [-0.5, 0.75]
    assert ranked(fitted([7.0, 7.0, 7.0]), -1e9, 7.0, 8.0) == [0.0, 0.0, 0.0]
    assert ranked(fitted([7.0]), 6.0, 7.0, 8.0) == [0.0, 0.0, 0.0]


def test_an_outlier_moves_no_other_rank() -> None:
    usual = [float(value) for value in range(100)]
    one, other = fitted([*usual, 100.0]), fitted([*usual, 1e12])
    assert ranked(one, *usual) == ranked(other, *usual)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 600), st.just(2)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32) | st.sampled_from([0.0, 1.0]),
    ),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20),
)
def test_every_column_has_finite_ranks_in_order(rows: np.ndarray, asked: list[float]) -> None:
    module = fitted(*torch.from_numpy(rows).T, dtype=torch.float32)
    values = torch.tensor(sorted([*rows[:, 0].tolist(), *asked]), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = module(values[:, None].repeat(1, 2))
    assert found.isfinite().all() and found.abs().max() <= 1
    assert (found[:, 0].diff() >= -1e-6).all()
    columns = values.repeat(2, 1)
    assert torch.equal(halved(module.knots, columns), positions(module.knots, columns))


def test_only_training_rows_decide_the_ranks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=300), "city": random.choice(["a", "b"], 300)})
    frame["y"] = frame["x"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = TrainConfig(data=f"{tmp_path}/t.csv", model="linear", normalize="quantile")
    before = prepare(config)
    frame.loc[before.split.test.tolist(), "x"] = 1e6
    frame.to_csv(tmp_path / "t.csv", index=False)
    scale = before.state.model.scale
    assert isinstance(before.state.model, Scaled) and isinstance(scale, Quantiles)
    again = prepare(config).state.model.scale
    assert torch.equal(scale.knots, again.knots) and torch.equal(scale.ranks, again.ranks)
    assert scale.is_ranked.tolist() == [True, False], "codes stay codes"
    encoded = before.table.features
    assert torch.equal(scale(encoded)[:, 1], encoded[:, 1])
    train = frame["x"].to_numpy()[before.split.train.numpy()]
    ends = torch.tensor([train.min(), train.max()], dtype=torch.float32)
    assert torch.equal(scale.knots[0, [0, -1]], ends)


@pytest.mark.parametrize(("value", "dtype"), [(3e38, torch.float32), (1e308, torch.float64)])
def test_a_range_too_large_for_the_dtype_is_refused(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match="option normalize: the range of feature column 2 is too"):
        fitted([0.0, 1.0], [value, -value], dtype=dtype)
