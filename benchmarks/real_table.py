"""A real table: our MLP beside scikit-learn's usual answers, on the same test rows.

    python -m benchmarks.real_table

The training is that of the README:
`runback train --data data/diabetes.csv --model mlp --normalize standard --optimizer adamw --lr 0.003
--epochs 200 --patience 30 --batch-size 32 --seed SEED`, without tracking. Nothing is tuned on the
test rows; the MLP's weights are those of the epoch with the lowest validation cost. The other two
train on the training rows alone, as they have no use for validation rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from torch import Tensor

from benchmarks.common import ROOT, median, options, publish, table
from runback.config import TrainConfig
from runback.model.batched_forward import predict_rows
from runback.training.loop import run_epochs
from runback.training.setup import TrainingSetup, held_out, prepare

TABLE = ROOT / "data" / "diabetes.csv"
SEEDS = range(10)
ESTIMATORS = ("runback mlp", "LinearRegression", "HistGradientBoosting")


def config_of(seed: int) -> TrainConfig:
    """The README's command, for one seed of split and weights."""
    return TrainConfig(
        data=str(TABLE),
        model="mlp",
        normalize="standard",
        optimizer="adamw",
        lr=0.003,
        epochs=200,
        patience=30,
        batch_size=32,
        seed=seed,
    )


def r2_of_mlp(work: TrainingSetup) -> float:
    """Trains to the end of patience, and scores the best weights on the test rows."""
    for _ in run_epochs(work.state, work.batches, work.validation, work.config):
        pass
    assert work.state.best is not None
    work.state.model.load_state_dict(work.state.best.model_state_dict)
    test = held_out(work)
    assert test is not None
    output = predict_rows(work.state.model, test.features)
    return r2_score(work, output)


def r2_score(work: TrainingSetup, output: Tensor) -> float:
    """R² of predictions `[n_test, 1]` for the test rows."""
    test, targets = held_out(work), work.built.spec.target_columns
    assert test is not None
    return work.task.scores(output, test.targets, work.loss, targets)["r2"]


def r2_of(estimator: Any, work: TrainingSetup) -> float:
    """Fits a scikit-learn estimator on the same training rows and scores the same test rows."""
    rows, test = work.split.train, held_out(work)
    assert test is not None
    estimator.fit(work.table.features[rows].numpy(), work.table.targets[rows, 0].numpy())
    predicted = torch.tensor(estimator.predict(test.features.numpy()), dtype=torch.float32)
    return r2_score(work, predicted[:, None])


def main() -> None:
    """Measures and prints: one row a seed, then the medians."""
    seeds = range(2) if options(__doc__).quick else SEEDS
    found = [r2_of_all(prepare(config_of(seed))) for seed in seeds]
    rows = [(str(seed), *shown(r2)) for seed, r2 in zip(seeds, found, strict=True)]
    medians = shown(median(column) for column in zip(*found, strict=True))
    body = [
        "R² on the test rows of `data/diabetes.csv` (442 patients, 10 features; Efron and others "
        "2004), by the seed of split and weights.",
        "",
        *table(("seed", *ESTIMATORS), [*rows, ("median", *medians)]),
    ]
    publish("real_table", "Real table", body, ("scikit-learn",))


def r2_of_all(work: TrainingSetup) -> tuple[float, float, float]:
    """The scores in the order of `ESTIMATORS`."""
    linear = r2_of(LinearRegression(), work)
    boosting = r2_of(HistGradientBoostingRegressor(random_state=0), work)
    return r2_of_mlp(work), linear, boosting


def shown(values: Iterable[float]) -> list[str]:
    """Cells of the table."""
    return [f"{r2:.3f}" for r2 in values]


if __name__ == "__main__":
    main()
