"""The name of a run: composed, given by the user, or kept."""

from __future__ import annotations

import pytest
from mlflow.utils.name_utils import _generate_random_name

from conftest import Workspace
from runback.commands.run_name import run_name
from runback.config import TrainConfig
from runback.errors import ConfigError
from runback.tracking.describe_run import _is_generated


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"data": "a/diabetes.csv", "lr": 0.003}, "mlp diabetes lr=0.003"),
        ({"data": "x.csv.gz"}, "mlp x"),
        ({}, "polynomial non_linear"),
        ({"lr": 0.5, "epochs": 3, "seed": 2}, "polynomial non_linear lr=0.5 epochs=3"),
        ({"model": "nets.py:Net", "data": "own.py:Rows"}, "Net Rows"),
        ({"name": "the first", "lr": 0.5}, "the first"),
    ],
)
def test_the_name_has_model_data_and_two_options(
    options: dict[str, object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_NAME", raising=False)
    assert run_name(TrainConfig.from_mapping(options)) == name


def test_a_name_longer_than_mlflows_column_is_refused() -> None:
    with pytest.raises(ConfigError, match="option name: longer than 250 characters"):
        TrainConfig(name="x" * 251)


def test_generated_names_are_told_from_given_ones() -> None:
    assert all(_is_generated(_generate_random_name(max_length=99)) for _ in range(100))
    assert _is_generated("")
    for name in ("mine", "my-run-3", "redolent-mouse", "redolent-mouse-x", "redolent mouse 620"):
        assert not _is_generated(name), name


def test_a_new_run_is_named_and_has_its_best_epoch(workspace: Workspace) -> None:
    run_id = workspace.train("--lr", "1e-6")
    run = workspace.client.get_run(run_id)
    assert run.info.run_name == "polynomial non_linear lr=1e-06 epochs=20"
    history = workspace.client.get_metric_history(run_id, "val_cost")
    best = min(history, key=lambda p: (p.value, p.step))
    for key, value in (("best_val_cost", best.value), ("best_epoch", best.step)):
        (point,) = workspace.client.get_metric_history(run_id, key)
        assert (point.value, point.step) == (value, best.step)


def test_a_resume_renames_and_has_one_best_a_step(workspace: Workspace) -> None:
    run_id = workspace.train("--name", "first")
    assert workspace.client.get_run(run_id).info.run_name == "first"
    done = workspace.runback("resume", run_id, "--epochs", "25", "--name", "second")
    assert done.returncode == 0, done.stderr
    run = workspace.client.get_run(run_id)
    assert run.info.run_name == "second"
    points = workspace.client.get_metric_history(run_id, "best_epoch")
    assert len({p.step for p in points}) == len(points)
    assert run.data.metrics["best_epoch"] == max(p.step for p in points)


def test_without_validation_rows_no_best_is_logged(workspace: Workspace) -> None:
    run = workspace.client.get_run(
        workspace.train("--split", "9:0:1", MLFLOW_RUN_NAME="from outside")
    )
    assert run.info.run_name == "from outside"
    metrics = run.data.metrics
    assert "test_cost" in metrics and not {"best_val_cost", "best_epoch"} & metrics.keys()


@pytest.mark.parametrize(
    ("launched_as", "given", "name"),
    [("mine", (), "mine"), ("redolent-mouse-620", (), "polynomial non_linear epochs=20"),
     ("mine", ("--name", "other"), "other")],
)  # fmt: skip
def test_a_launched_run_keeps_a_name_that_a_user_gave(
    workspace: Workspace, launched_as: str, given: tuple[str, ...], name: str
) -> None:
    launch = workspace.client.create_run("0", run_name=launched_as).info.run_id
    assert workspace.train(*given, MLFLOW_RUN_ID=launch) == launch
    assert workspace.client.get_run(launch).info.run_name == name
