"""Train, track, register, and load by the run ID."""

from __future__ import annotations

import json

import torch

from conftest import DATA, Workspace


def test_a_trained_run_loads_by_its_id(workspace: Workspace) -> None:
    run_id = workspace.train()

    from runback import load_model

    run = workspace.client.get_run(run_id)
    history = workspace.client.get_metric_history(run_id, "cost")
    assert run.info.status == "FINISHED"
    assert sorted(point.step for point in history) == list(range(1, 21))
    files = {info.path for info in workspace.client.list_artifacts(run_id, "checkpoints")}
    assert files == {
        f"checkpoints/checkpoint-0000{epoch}.{kind}"
        for epoch in (10, 20)
        for kind in ("pt", "json")
    }
    (version,) = workspace.client.search_model_versions("name = 'non_linear'")
    assert version.run_id == run_id
    module = load_model(run_id)
    assert module(torch.tensor([[1.0], [5.0]])).shape == (2, 1)


def test_evaluate_twice_is_equal_and_adds_no_points(workspace: Workspace) -> None:
    run_id = workspace.train()
    first, second = workspace.runback("evaluate", run_id), workspace.runback("evaluate", run_id)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    scores = json.loads(first.stdout)["scores"]
    for name, value in scores.items():
        (point,) = workspace.client.get_metric_history(run_id, f"test_{name}")
        assert point.value == value


def test_no_held_out_rows_means_no_test_score(workspace: Workspace) -> None:
    done = workspace.runback(
        "train", "--data", str(DATA / "multiple_linear.csv"), "--target", "y1,y2", "--model", "linear",
        "--epochs", "3", "--batch-size", "2", "--split", "1:0:0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no test scores" in done.stderr
    evaluated = workspace.runback("evaluate", done.stdout.strip())
    assert evaluated.returncode == 2
    assert "no test rows" in evaluated.stderr
