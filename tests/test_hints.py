"""A target of few whole numbers is warned about: it may be a class."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import DATA, Workspace
from runback.tasks import hint_for


def hint(values: list[float], loss: str = "mse") -> str:
    return hint_for(loss, torch.tensor(values).reshape(-1, 1))


def test_few_whole_numbers_are_told_with_the_other_loss() -> None:
    text = hint([*range(10)] * 10)
    assert text.startswith("the target has only 10 different whole numbers")
    assert text.endswith("use --loss cross_entropy")


@pytest.mark.parametrize(
    "values",
    [
        [0, 1] * 50,
        [*range(21)] * 10,
        [*range(10)] * 4,
        [0.5, 1, 2] * 50,
        pd.read_csv(DATA / "diabetes.csv")["progression"].tolist(),
        pd.read_csv(DATA / "non_linear.csv")["y"].tolist(),
    ],
)
def test_other_targets_are_not_told(values: list[float]) -> None:
    assert hint(values) == ""


def test_other_losses_and_several_targets_are_not_told() -> None:
    assert hint([*range(10)] * 10, "l1") == ""
    assert hint([*range(10)] * 10, "cross_entropy") == ""
    assert hint_for("mse", torch.arange(3).repeat(20).reshape(-1, 2)) == ""


def test_the_hint_is_one_line_before_the_training(workspace: Workspace) -> None:
    x = np.arange(100)
    pd.DataFrame({"x": x, "digit": x % 5}).to_csv("t.csv", index=False)
    done = workspace.runback("train", "--data", "t.csv", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "cross_entropy" in line]
    assert len(lines) == 1 and "the target has only 5 different" in lines[0]
