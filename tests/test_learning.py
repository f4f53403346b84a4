"""Convergence of the two example regressions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from conftest import DATA
from runback.config import TrainConfig
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import TrainingSetup, prepare

pytestmark = pytest.mark.usefixtures("threads")


def results(work: TrainingSetup) -> Iterator[EpochResult]:
    for event in run_epochs(work.state, work.batches, work.validation, work.config):
        assert isinstance(event, EpochResult)
        yield event


def test_the_polynomial_converges_to_least_squares() -> None:
    work = prepare(TrainConfig(data=str(DATA / "non_linear.csv")))
    rows = work.split.train
    x = work.table.features[rows, 0].double().numpy()
    y = work.table.targets[rows, 0].double().numpy()
    exact = np.linalg.lstsq(np.stack([x**2, x, np.ones_like(x)], axis=1), y, rcond=None)[0]
    layer = work.state.model.get_submodule("layer")
    biases, costs = [layer.get_parameter("bias").item()], []
    for result in results(work):
        costs.append(result.cost)
        if result.epoch % 1000 == 0:
            biases.append(layer.get_parameter("bias").item())
    assert len(costs) == 10_000
    w1, w2 = layer.get_parameter("weight")[0].tolist()
    assert abs(w1 - exact[0]) < 0.01
    assert abs(w2 - exact[1]) < 0.05
    distances = [abs(bias - exact[2]) for bias in biases]
    assert distances == sorted(distances, reverse=True), "the bias moves toward the solution"
    assert distances[-1] < distances[0] / 3
    noise = float(np.mean((y - np.polyval(exact, x)) ** 2))
    assert abs(costs[-1] - noise) < 0.1 * noise


def test_multiple_regression_converges() -> None:
    work = prepare(
        TrainConfig(
            data=str(DATA / "multiple_linear.csv"), target=("y1", "y2"), model="linear",
            epochs=20_000, batch_size=2, lr=0.001, split="1:0:0",
        )
    )  # fmt: skip
    last = max(results(work), key=lambda result: result.epoch)
    assert (last.epoch, last.val_cost) == (20_000, None)
    assert last.cost < 0.01
    with torch.no_grad():
        predicted = work.state.model(work.table.features)
    assert torch.allclose(predicted, work.table.targets, atol=0.01)
