"""Tables of any columns: each trains an epoch and predicts itself back from its stored model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuzzing import INPUTS, inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from runback.commands.finish import require_finite
from runback.config import TrainConfig
from runback.data.frame import write_frame
from runback.model.batched_forward import predict_rows
from runback.model.serving import Predictor
from runback.model.spec import load_built, save_model
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import TrainingSetup, prepare

NAMES = [
    "x", "y", "a b", "x,y", "\U0001f600", "a/b", 'q"', "é", "a:b", "=1", "#", "$x_1$", "None",
    "x" * 200,
]  # fmt: skip
Random = np.random.Generator
DAY = np.datetime64("2020-02-28", "s")


def texts(random: Random, n: int, most: int) -> Any:
    words = [f"{word} {index}" for index in range(most) for word in ("ja", "à, b", "\U0001f600")]
    return random.choice(np.array(words[:most], object), n)


def dates(random: Random, n: int) -> pd.Series:
    seconds = random.integers(0, 4 * 10**7, n).astype("timedelta64[s]")
    return pd.Series(DAY + seconds)


KINDS: dict[str, Callable[[Random, int], Any]] = {
    "normal": lambda random, n: random.standard_normal(n),
    "whole": lambda random, n: random.integers(-5, 50, n),
    "large": lambda random, n: random.standard_normal(n) * 1e30,
    "wide": lambda random, n: 10.0 ** random.integers(-300, 300, n),
    "numbers as text": lambda random, n: random.integers(0, 99, n).astype(str).astype(object),
    "truth": lambda random, n: random.integers(0, 2, n).astype(bool),
    "yes or no": lambda random, n: random.choice(np.array(["yes", "no"], object), n),
    "few texts": lambda random, n: texts(random, n, 5),
    "many texts": lambda random, n: texts(random, n, 400),
    "identifier": lambda random, n: np.array([f"id{i}" for i in range(n)], object),
    "constant": lambda random, n: np.full(n, 3.5),
    "empty": lambda random, n: np.full(n, np.nan),
    "times": dates,
    "days as text": lambda random, n: dates(random, n).dt.strftime("%Y-%m-%d").to_numpy(object),
    "mixed": lambda random, n: np.where(random.integers(0, 2, n), "a", "1").astype(object),
}
SELDOM = ["wide", "identifier", "empty", "mixed"]  # these are refused, or alone
USUAL = sorted(KINDS.keys() - SELDOM)
COLUMN = st.tuples(st.sampled_from([*USUAL * 4, *SELDOM]), st.sampled_from([0.0, 0.0, 0.05, 0.5]))
ROWS = st.one_of(*[st.integers(1, 60)] * 2, *[st.integers(60, 400)] * 4, st.integers(400, 10_000))


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """A frame whose last column, the target, is complete."""
    n, random = draw(ROWS), np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = draw(st.lists(COLUMN, min_size=2, max_size=6))
    names = draw(st.permutations(NAMES))
    made = {}
    for name, (kind, missing) in zip(names, columns, strict=False):
        cells = pd.Series(KINDS[kind](random, n))
        made[name] = (
            cells if len(made) == len(columns) - 1 else cells.mask(random.random(n) < missing)
        )
    return pd.DataFrame(made)


OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "model": st.sampled_from(["mlp", "linear"]),
    "normalize": st.sampled_from(["none", "standard", "minmax", "quantile"]),
    "split": st.sampled_from([*["8:1:1"] * 4, "1:0:0", "stratified"]),
    "loss": st.sampled_from([*["auto"] * 8, "mse", "cross_entropy"]),
}


@inputs(0.3 if INPUTS <= 1000 else 1)
@given(frames(), st.fixed_dictionaries(OPTIONS), st.sampled_from(["csv", "parquet"]))
def test_any_table_trains_and_predicts_itself_back(
    frame: pd.DataFrame, options: dict[str, str], ending: str
) -> None:
    file = Path(f"table.{ending}")
    frame.to_csv(file, index=False) if ending == "csv" else write_frame(frame, file)
    config = {**options, "data": str(file), "epochs": 1, "batch_size": 64, "drop_last": False}

    def trained() -> TrainingSetup:
        setup = prepare(TrainConfig.from_mapping({**config, "threads": 1}))
        parts = setup.batches, setup.validation
        for event in run_epochs(setup.state, *parts, setup.config, loss=setup.loss):
            assert isinstance(event, EpochResult)
            require_finite("cost", event.cost, 1)
        return setup

    setup = tried("trainings", trained)
    if setup is not None:
        _check(setup, frame)


def _check(setup: TrainingSetup, frame: pd.DataFrame) -> None:
    """The stored model predicts from the frame what the trained module does, bit for bit."""
    folder = Path("model")
    shutil.rmtree(folder, ignore_errors=True)
    save_model(folder, setup.built, setup.state.model.state_dict(), setup.example)
    built = load_built(folder)
    output = predict_rows(setup.state.model, setup.table.features)
    if bool(output.isfinite().all()):
        expected = setup.task.decode(output, setup.built.spec.target_columns)
        rows = frame[list(frame.columns[::-1])]
        found = Predictor(built.module, built.spec).predict_frame(rows)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert all(torch.isfinite(p).all() for p in setup.state.model.parameters())
