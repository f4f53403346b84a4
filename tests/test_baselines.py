"""Simple models that a score is compared with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from runback.columns.label import LabelColumn
from runback.tasks import TASKS, Task, criterion
from runback.tasks.baselines import fitted_rows

TARGETS = {
    "regression": LabelColumn("y", (), ()),  # a column without classes
    "classification": LabelColumn("y", ("a", "b"), (1, 1)),
    "binary": LabelColumn("y", (False, True), (1, 1)),
}


def scores(task: Task, x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """Of each baseline, on the rows that it was fitted on."""
    targets = [TARGETS[task.name]]
    y = y.to(task.target_dtype(torch.float32))
    loss = criterion(next(iter(task.losses)), "none", targets)
    rows = fitted_rows(*x.shape)
    found = dict(task.baselines(x[rows], y, rows, x, targets))
    return {name: task.scores(output, y, loss, targets) for name, output in found.items()}


def test_a_linear_relation_is_found() -> None:
    x = torch.rand(100, 2)
    found = scores(TASKS["regression"], x, 3 * x[:, :1] - x[:, 1:] + 1)
    assert found["linear"]["r2"] == pytest.approx(1)
    assert found["constant"]["r2"] == pytest.approx(0)


@pytest.mark.parametrize("name", ["classification", "binary"])
def test_separable_classes_are_found(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(300, 2)
    found = scores(TASKS[name], x, x[:, :1] > x[:, 1:] + 0.2)
    share = (x[:, 0] > x[:, 1] + 0.2).double().mean().item()
    assert found["linear"]["accuracy"] > 0.95
    assert found["constant"]["accuracy"] == pytest.approx(max(share, 1 - share))
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert found["constant"]["log_loss"] == pytest.approx(entropy)


@pytest.mark.parametrize("name", list(TARGETS))
def test_one_row_has_baselines(name: str) -> None:
    assert len(scores(TASKS[name], torch.ones(1, 1), torch.zeros(1, 1))) == 2


def test_many_rows_are_thinned_out() -> None:
    x = torch.rand(50_001, 1)
    found = scores(TASKS["regression"], x, 2 * x)
    assert found["linear"]["r2"] == pytest.approx(1)
