"""Targets that are scaled for the training only: statistics, cost, scores, and stored runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

import runback
from conftest import DATA, Workspace
from runback.config import TrainConfig
from runback.errors import ConfigError, DataError
from runback.model.batched_forward import predict_rows
from runback.model.scaling import Scaled, TargetScaled
from runback.model.spec import SPEC_FILE, ModelSpec, save_model
from runback.training import compiling
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import TrainingSetup, held_out, prepare
from tracking_parts import record, recorded

DIABETES = str(DATA / "diabetes.csv")
FLOWERS = str(DATA / "flowers.csv")


def setup_of(data: str = DIABETES, **options: Any) -> TrainingSetup:
    usual = {"epochs": 3, "normalize_target": "standard", "model": "linear", "batch_size": 64}
    return prepare(TrainConfig(data=data, **{**usual, **options}))


def trained(setup: TrainingSetup) -> list[EpochResult]:
    events = run_epochs(setup.state, setup.batches, setup.validation, setup.config)
    return [event for event in events if isinstance(event, EpochResult)]


def prices(folder: Path, n_rows: int = 100) -> str:
    """A table with two targets that are far from standardised."""
    x = np.random.default_rng(0).normal(size=(n_rows, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    frame["price"] = 250_000 + 90_000 * x[:, 0]
    frame["rate"] = 0.01 + 0.003 * x[:, 1]
    frame.to_csv(folder / "prices.csv", index=False)
    return str(folder / "prices.csv")


def test_each_target_has_the_statistics_of_training_rows(tmp_path: Path) -> None:
    setup = setup_of(prices(tmp_path), target=("price", "rate"), precision="float64")
    module = setup.state.model
    assert isinstance(module, TargetScaled)
    train = setup.table.targets[setup.split.train].numpy()
    assert module.target.offset.tolist() == pytest.approx(train.mean(0).tolist(), rel=1e-12)
    assert module.target.scale.tolist() == pytest.approx(train.std(0).tolist(), rel=1e-12)
    everything = setup.table.targets.numpy()
    assert module.target.offset.tolist() != pytest.approx(everything.mean(0).tolist(), rel=1e-6)


def test_other_rows_do_not_change_the_statistics(tmp_path: Path) -> None:
    data = prices(tmp_path)
    before = setup_of(data, target=("price",))
    frame = pd.read_csv(data)
    frame.loc[before.split.test.tolist(), "price"] = 1e30
    frame.to_csv(data, index=False)
    after = setup_of(data, target=("price",))
    for name, tensor in before.state.model.state_dict().items():
        assert torch.equal(after.state.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_the_cost_is_of_scaled_targets_and_scores_are_not(loss: str) -> None:
    setup = setup_of(loss=loss, precision="float64", lr=0.01, epochs=5, normalize="minmax")
    (*_, last) = trained(setup)
    module, part, test = setup.state.model, setup.validation, held_out(setup)
    assert isinstance(module, TargetScaled) and isinstance(module.module, Scaled)
    assert part is not None and test is not None
    offset, scale = module.target.offset, module.target.scale
    output, targets = (
        (values - offset) / scale for values in (predict_rows(module, part.features), part.targets)
    )
    by_hand = {"mse": functional.mse_loss, "l1": functional.l1_loss, "huber": functional.huber_loss}
    assert last.val_cost == pytest.approx(by_hand[loss](output, targets).item(), rel=1e-9)
    found = predict_rows(module, test.features)
    scores = setup.task.scores(found, test.targets, setup.loss, setup.built.spec.target_columns)
    assert scores["rmse"] == pytest.approx((found - test.targets).square().mean().sqrt().item())
    assert scores["cost"] == pytest.approx(by_hand[loss](found, test.targets).item())
    assert scores["rmse"] > 10 * last.val_cost


def test_loaded_batches_are_scaled_as_well() -> None:
    gathered = trained(setup_of(lr=0.01, epochs=2))
    assert trained(setup_of(lr=0.01, epochs=2, num_workers=1)) == gathered


@pytest.mark.skipif(
    bool(compiling.missing_compiler(torch.device("cpu"))), reason="no compiler on this machine"
)
def test_compiled_steps_scale_the_targets() -> None:
    eager = trained(setup_of(lr=0.01, epochs=2, precision="float64"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch.compile says of its own code
        compiled = trained(setup_of(lr=0.01, epochs=2, precision="float64", compile="default"))
    for one, two in zip(eager, compiled, strict=True):
        assert (two.cost, two.val_cost) == pytest.approx((one.cost, one.val_cost), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e30])
def test_a_constant_target_is_predicted(tmp_path: Path, value: float) -> None:
    rows = "".join(f"{index},{value}\n" for index in range(20))
    (tmp_path / "same.csv").write_text("x,y\n" + rows)
    setup = setup_of(f"{tmp_path}/same.csv", batch_size=4, normalize="standard", lr=0.1)
    assert all(np.isfinite(event.cost) for event in trained(setup))
    assert predict_rows(setup.state.model, setup.table.features).isfinite().all()


def test_targets_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{index},{(-1) ** index * 3e38}\n" for index in range(20))
    (tmp_path / "huge.csv").write_text("x,y\n" + rows)
    with pytest.raises(DataError) as caught:
        setup_of(f"{tmp_path}/huge.csv", batch_size=4)
    assert str(caught.value).startswith(
        "option normalize_target: the range of target column 1 is too large for float32"
    )


# What is chosen, refused and recorded


def test_auto_scales_numbers_and_no_classes() -> None:
    numbers = setup_of(model="mlp", normalize_target="auto").config
    assert (numbers.loss, numbers.normalize_target) == ("mse", "standard")
    classes = setup_of(FLOWERS, model="mlp", normalize_target="auto").config
    assert (classes.loss, classes.normalize_target) == ("cross_entropy", "none")


@pytest.mark.parametrize("loss", ["auto", "cross_entropy", "bce"])
def test_scaled_classes_are_refused(workspace: Workspace, loss: str) -> None:
    table = "flowers.csv"
    frame = pd.read_csv(FLOWERS)
    frame["species"] = frame["species"] == "setosa"
    (frame if loss == "bce" else pd.read_csv(FLOWERS)).to_csv(table, index=False)
    with pytest.raises(ConfigError) as caught:
        runback.train(table, loss=loss, normalize_target="standard")
    name = "cross_entropy" if loss == "auto" else loss
    assert str(caught.value) == (
        f"option normalize_target: loss {name} predicts classes, which have no scale; use none"
    )
    assert workspace.client.search_runs(["0"]) == []


def test_a_table_is_trained_on_scaled_targets_by_default(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runback.train(DIABETES, epochs=15, batch_size=32).run_id
    assert "cost and val_cost are of the standardised target" in capsys.readouterr().err
    stored = workspace.client.get_run(run)
    assert stored.data.params["normalize_target"] == "standard"
    assert stored.data.metrics["val_cost"] < 2 < stored.data.metrics["test_rmse"]
    assert stored.data.metrics["test_r2"] > 0.2
    assert "`val_cost` are of the standardised target" in stored.data.tags["mlflow.note.content"]
    scores = runback.evaluate(run).scores
    assert {f"test_{name}": value for name, value in scores.items()}.items() <= (
        stored.data.metrics.items()
    )


def test_a_run_without_the_option_is_resumed_as_it_was(workspace: Workspace) -> None:
    """A run that was recorded before the option existed; the default of its model is another one."""
    options: dict[str, Any] = {"epochs": 4, "checkpoint_every": 2, "normalize_target": "none"}
    run = runback.train(DIABETES, **options).run_id
    config = recorded(workspace.client, run)["config"]
    del config["normalize_target"]
    record(workspace.client, run, config=config)
    (file,) = (workspace.home(run) / "model").rglob(SPEC_FILE)
    spec = json.loads(file.read_text())
    del spec["normalize_target"]
    assert ModelSpec.from_json(spec).normalize_target == "none"
    assert runback.resume(run, epochs=5).delivered
    assert runback.reproduce(run).equal


def test_a_model_folder_has_the_scale_of_its_targets(tmp_path: Path) -> None:
    setup = setup_of(model="mlp", epochs=1)
    trained(setup)
    save_model(tmp_path / "model", setup.built, setup.state.model.state_dict())
    spec = json.loads((tmp_path / "model" / SPEC_FILE).read_text())
    assert spec["normalize_target"] == "standard"
    weights = torch.load(tmp_path / "model" / "model_state_dict.pt", weights_only=True)
    assert weights["target.scale"].shape == weights["target.offset"].shape == (1,)
