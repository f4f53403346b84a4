"""The description and the tags of a run: what they say, and that a user's own are kept."""

from __future__ import annotations

from conftest import DATA, SECONDS, Workspace, wait_until
from finished_runs import FinishedRuns
from runback.tracking import tags
from tracking_parts import ended, recorded


def test_the_note_of_a_run_says_what_it_is(workspace: Workspace) -> None:
    run_id = workspace.train()
    run = workspace.client.get_run(run_id)
    note, metrics = run.data.tags[tags.NOTE], run.data.metrics
    assert note.startswith("- Weights: ")
    assert (
        "- Data: `non_linear.csv`, rows: 160 training, 20 validation, 20 test; 1 feature column(s)"
        in note
    )
    assert "- Model: `polynomial`, 3 parameters, on cpu" in note
    assert f"- Weights: epoch {metrics['best_epoch']:.0f}, lowest val_cost" in note
    assert "| test score | this model | constant | linear |" in note
    assert f"| test_rmse | {metrics['test_rmse']:.6g} | " in note
    for command in ("evaluate", "resume", "reproduce", "predict"):
        assert f"runback {command} {run_id}" in note
    assert "was resumed" not in note
    resumed = workspace.runback("resume", run_id, "--epochs", "24")
    assert resumed.returncode == 0, resumed.stderr
    again = workspace.client.get_run(run_id).data.tags[tags.NOTE]
    assert "- The run was resumed, with other values of epochs." in again


def test_a_note_that_a_user_edited_is_kept(workspace: Workspace) -> None:
    run_id = workspace.train("--split", "9:1:0")
    assert "There are no test rows" in workspace.client.get_run(run_id).data.tags[tags.NOTE]
    workspace.client.set_tag(run_id, tags.NOTE, "do not use: wrong table")
    assert workspace.runback("resume", run_id, "--epochs", "24").returncode == 0
    assert workspace.client.get_run(run_id).data.tags[tags.NOTE] == "do not use: wrong table"


def test_a_failed_run_says_why_it_has_no_model(workspace: Workspace) -> None:
    options = ("--data", str(DATA / "non_linear.csv"), "--lr", "1e18", "--name", "x")
    assert workspace.runback("train", *options).returncode == 1
    (run,) = workspace.client.search_runs(["0"])
    note = run.data.tags[tags.NOTE]
    assert note.startswith("- Weights: none yet; `DivergedError: the val_cost of epoch 1 is ")
    assert "- Data: `non_linear.csv`, rows: 160 training" in note
    assert f"```\nrunback show {run.info.run_id}\nrunback resume {run.info.run_id}\n```" in note
    assert all(run.data.params.values()) and "target" not in run.data.params


def test_a_stopped_run_is_described_and_then_its_model(workspace: Workspace) -> None:
    endless = ("--data", str(DATA / "non_linear.csv"), "--epochs", "1000000", "--patience", "0")
    process = workspace.start("train", *endless, "--checkpoint-every", "10")
    described = "- Weights: none yet; the run is in training, or was stopped before its end"
    wait_until(lambda: noted(workspace).startswith(described), SECONDS)
    process.terminate()
    assert ended(process)[0] == 143
    assert noted(workspace).startswith(described)
    (run,) = workspace.client.search_runs(["0"])
    done = workspace.runback("resume", run.info.run_id, "--patience", "1")
    assert done.returncode == 0, done.stderr
    assert noted(workspace).startswith("- Weights: epoch ")


def noted(workspace: Workspace) -> str:
    """The description of the only run; empty without one."""
    runs = workspace.client.search_runs(["0"])
    return runs[0].data.tags.get(tags.NOTE, "") if runs else ""


def test_a_finished_run_has_two_tags_of_runback(finished_runs: FinishedRuns) -> None:
    """MLflow's UI shows the tags that do not begin with mlflow."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids["strong"]
    stored = client.get_run(run_id).data.tags
    shown = {name for name in stored if not name.startswith("mlflow.")}
    assert shown == {tags.VERSION, tags.RUN}
    entries = {"config", "creation", "data_fingerprint", "data_path"}
    assert recorded(client, run_id).keys() == entries
    assert all(stored.values())
