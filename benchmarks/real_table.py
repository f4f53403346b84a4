"""A real table: our MLP beside scikit-learn's usual answers, on the same test rows.

    python -m benchmarks.real_table

The training is that of the README:
`runback train --data data/diabetes.csv --model mlp --normalize standard --optimizer adamw --lr 0.003
--epochs 200 --patience 30 --batch-size 32 --seed SEED`, without tracking. Nothing is tuned on the
test rows; the MLP's weights are those of the epoch with the lowest validation cost. The other two
train on the training rows alone, as they have no use for validation rows.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from runback.config import TrainConfig
from runback.evaluation import predict_rows, scores
from runback.jobs.preparation import Work, held_out, prepare
from runback.training.loop import run_epochs

TABLE = Path(__file__).resolve().parents[1] / "data" / "diabetes.csv"
SEEDS = range(10)


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


def r2_of_mlp(work: Work) -> float:
    """Trains to the end of patience, and scores the best weights on the test rows."""
    for _ in run_epochs(work.state, work.batches, work.validation, work.config):
        pass
    assert work.state.best is not None
    work.state.model.load_state_dict(work.state.best.model_state_dict)
    test = held_out(work)
    assert test is not None
    return scores(predict_rows(work.state.model, test.features), test.targets, "mse")["r2"]


def r2_of(estimator: Any, work: Work) -> float:
    """Fits a scikit-learn estimator on the same training rows and scores the same test rows."""
    rows, test = work.split.train, held_out(work)
    assert test is not None
    estimator.fit(work.table.features[rows].numpy(), work.table.targets[rows, 0].numpy())
    predicted = torch.tensor(estimator.predict(test.features.numpy()), dtype=torch.float32)
    return scores(predicted[:, None], test.targets, "mse")["r2"]


def main() -> list[list[str]]:
    """Prints and returns the table: one row a seed, then the medians."""
    found = []
    for seed in SEEDS:
        work = prepare(config_of(seed))
        linear = r2_of(LinearRegression(), work)
        boosting = r2_of(HistGradientBoostingRegressor(random_state=0), work)
        found.append((r2_of_mlp(work), linear, boosting))
    rows = [["seed", "runback mlp", "LinearRegression", "HistGradientBoosting"]]
    for seed, line in zip(SEEDS, found, strict=True):
        rows.append([str(seed), *(f"{r2:.3f}" for r2 in line)])
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    rows.append(["median", *(f"{r2:.3f}" for r2 in medians)])
    for row in rows:
        print("  ".join(f"{cell:>20}" for cell in row))
    return rows


if __name__ == "__main__":
    main()
