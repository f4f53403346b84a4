"""A cost that is not finite ends a run as FAILED, whichever rows it comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import DATA, PROGRAMS, Workspace
from in_process import history, last_checkpoint, train_until
from runback import TrainConfig
from runback.errors import DivergedError
from runback.model.rebuild import Rebuilder
from runback.model.spec import save_model
from runback.training.setup import prepare
from runback.training.state import TrainState

FAILING = f"{PROGRAMS}/hidden.py:FailsLater"


def config_of(value: str, **options: Any) -> TrainConfig:
    """One step an epoch; predictions are not finite from epoch 3 on, but only in eval mode."""
    data = str(DATA / "non_linear.csv")
    args = {"value": value}
    return TrainConfig(data=data, model=FAILING, model_args=args, epochs=9, lr=1e-7, **options)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_val_cost_that_is_not_finite_ends_the_training(tmp_path: Path, value: str) -> None:
    """The points are logged, and the last good weights stay; a resume ends in the same way."""
    reason = "the val_cost of epoch 3 is (nan|inf); try a smaller lr, or scale the columns"
    for _ in range(2):
        with pytest.raises(DivergedError, match=reason):
            train_until(tmp_path, config_of(value, checkpoint_every=1))
        points = history(tmp_path)
        assert {step for _, step in points} == {1, 2, 3}
        assert math.isfinite(points["cost", 3]) and not math.isfinite(points["val_cost", 3])
        kept = last_checkpoint(tmp_path)
        assert kept["epoch"] == 2 and kept["progress_state_dict"]["best"]["epoch"] == 2


def test_a_resumed_run_ends_at_the_same_epoch(tmp_path: Path) -> None:
    train_until(tmp_path, config_of("nan"), (2, 0))
    with pytest.raises(DivergedError, match="val_cost of epoch 3 is nan"):
        train_until(tmp_path, config_of("nan"))


@pytest.mark.parametrize("split", ["8:1:1", "8:0:2"])
def test_a_run_with_such_a_cost_is_not_registered(workspace: Workspace, split: str) -> None:
    """Without validation rows only the test cost shows it."""
    done = workspace.runback(
        "train", "--data", str(DATA / "non_linear.csv"), "--model", FAILING, "--epochs", "5",
        "--lr", "1e-7", "--split", split, "--checkpoint-every", "1",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    name, epoch = ("val_cost", 3) if split == "8:1:1" else ("test_cost", 5)
    assert f"the {name} of epoch {epoch} is nan; try a smaller lr" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED"
    assert f"the {name} of epoch {epoch} is nan" in run.data.tags["runback.error"]
    (last,) = (
        p for p in workspace.client.get_metric_history(run.info.run_id, name) if p.step == epoch
    )
    assert math.isnan(last.value)
    assert workspace.client.search_logged_models(["0"]) == []
    assert workspace.client.search_model_versions("") == []


def test_a_model_of_no_finite_predictions_is_refused(tmp_path: Path) -> None:
    """Without validation and test rows, the training rows are checked."""
    setup = prepare(config_of("inf", split="1:0:0"))
    for _ in range(3):
        setup.state.model(setup.table.features[:4])
    save_model(tmp_path / "model", setup.built, setup.state.model.state_dict())
    with Rebuilder(setup.built) as rebuilder, pytest.raises(DivergedError) as caught:
        rebuilder.require_equal(tmp_path / "model", setup.table.features[:4])
    assert "inf for checked row 1, so nothing was registered" in str(caught.value)


@given(st.lists(st.floats(width=32), min_size=1, max_size=9))
def test_the_best_epoch_always_has_a_finite_cost(costs: list[float]) -> None:
    config = TrainConfig(data="x.csv", model="linear")
    state = TrainState.fresh(nn.Linear(1, 1), config, torch.device("cpu"))
    for cost in costs:
        state.finish_epoch(0.5, cost)
    finite = [cost for cost in costs if math.isfinite(cost)]
    assert (state.best.val_cost if state.best else None) == (min(finite) if finite else None)
