"""MLflow's own functions in the block of `runback.run` go to the same run; its status stays true."""

from __future__ import annotations

import mlflow
import pytest

import runback
from conftest import Workspace
from own_runs import points, program, runs_of


@pytest.mark.parametrize(
    ("end", "code", "status"), [("fail", 1, "FAILED"), ("terminate", 143, "KILLED")]
)
def test_mlflows_exit_leaves_the_status_alone(
    workspace: Workspace, end: str, code: int, status: str
) -> None:
    done = program(workspace, "own_mlflow.py", end)
    assert done.returncode == code, done.stderr
    assert done.stdout == "none True none\n"
    assert [run.info.status for run in runs_of(workspace)] == [status]


def test_points_of_mlflow_do_not_disturb_a_resume(workspace: Workspace) -> None:
    assert program(workspace, "own_mlflow.py", "kill").returncode == -9
    again = program(workspace, "own_mlflow.py")
    assert again.returncode == 0, again.stderr
    assert "warning" not in again.stderr
    (run,) = runs_of(workspace)
    assert run.info.status == "FINISHED"
    assert run.data.params["theirs"] == "1" and run.data.tags["team"] == "vision"
    assert points(workspace, run.info.run_id, "ours") == [(n + 1, n) for n in range(4)]
    theirs = points(workspace, run.info.run_id, "theirs")
    assert set(theirs) == {(500 + n, n) for n in range(4)}


def test_another_store_in_mlflow_is_a_warning(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow.start_run() as theirs:
        mlflow.set_tracking_uri(f"sqlite:///{workspace.folder}/other.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.uri)  # mlflow has set it, too
        with runback.run("own") as run:
            assert mlflow.active_run().info.run_id == theirs.info.run_id
        mlflow.set_tracking_uri(workspace.uri)
    assert "warning: mlflow.log_* do not go to run" in capsys.readouterr().err
    assert [r.info.run_id for r in runs_of(workspace)] == [run.id]
    assert mlflow.active_run() is None


def test_a_run_of_ones_own_is_active_again_afterwards(workspace: Workspace) -> None:
    with mlflow.start_run() as theirs:
        with runback.run("own") as run:
            assert mlflow.active_run().info.run_id == run.id
            with mlflow.start_run(nested=True) as child:
                assert child.data.tags["mlflow.parentRunId"] == run.id
        assert mlflow.active_run().info.run_id == theirs.info.run_id
    assert {r.info.status for r in mlflow.MlflowClient().search_runs(["0"])} == {"FINISHED"}
