"""`reproduce` trains a run again from its record and reports whether the results are equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import runback.commands.reproduce
from conftest import DATA, Workspace
from finished_runs import FinishedRuns
from runback import TrainConfig, resume, train
from runback.cli import main
from runback.commands.reproduce import reproduce
from runback.commands.train import TrainResult


def test_a_run_reproduces_to_the_last_bit(
    finished_runs: FinishedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the user's module as it was at training time, although the file has changed."""
    run_id = finished_runs.ids["own"]
    assert main(["reproduce", run_id]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] and found["weights_equal"] and found["first_difference"] is None
    assert found["points"] == 4 + 4 + 1  # cost, val_cost, lr
    again = finished_runs.workspace.client.get_run(found["reproduction"])
    assert again.data.tags["runback.reproduction_of"] == run_id
    assert again.info.status == "FINISHED"
    assert (
        len(finished_runs.workspace.client.search_model_versions(f"run_id = '{again.info.run_id}'"))
        == 0
    )


def test_a_resumed_run_reproduces(workspace: Workspace) -> None:
    """With a schedule set by the first number of epochs, and a patience that ended."""
    config = TrainConfig(
        data=str(DATA / "non_linear.csv"), epochs=3, scheduler="cosine", patience=9, lr=2e-4
    )
    run_id = train(config).run_id
    resume(run_id, epochs=5)
    resume(run_id, epochs=7, patience=1)
    found = reproduce(run_id)
    assert found.equal, found.first_difference


def test_a_differing_reproduction_is_reported(
    finished_runs: FinishedRuns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = finished_runs.ids["weak"]
    monkeypatch.setattr(
        runback.commands.reproduce, "run_training", lambda *_: TrainResult(other, True)
    )
    assert main(["reproduce", finished_runs.ids["strong"]]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["equal"] and not found["weights_equal"]
    assert found["first_difference"]["metric"] == "cost"
    assert found["first_difference"]["epoch"] == 6
    assert found["first_difference"]["again"] is None
    finished_runs.workspace.client.delete_tag(other, "runback.reproduction_of")


def test_changed_data_are_refused_before_training(
    finished_runs: FinishedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = finished_runs.workspace.folder / "table.csv"
    shutil.copyfile(table, tmp_path / "kept.csv")
    try:
        table.write_text(table.read_text() + "1,2\n")
        assert main(["reproduce", finished_runs.ids["strong"]]) == 2
        assert "not the data of the run" in capsys.readouterr().err
    finally:
        shutil.copyfile(tmp_path / "kept.csv", table)


def test_the_digest_covers_every_weight_and_buffer() -> None:
    module = torch.nn.BatchNorm1d(2)
    before = runback.commands.reproduce.weights_digest(module)
    module.num_batches_tracked.add_(1)
    assert runback.commands.reproduce.weights_digest(module) != before
