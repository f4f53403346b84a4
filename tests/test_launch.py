"""Commands through `mlflow run`: params that do not differ, and no empty run in the experiment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conftest import DATA, ROOT, SECONDS, Workspace
from finished_runs import FinishedRuns
from runback.cli import main
from runback.tracking import tags
from tracking_parts import mlflow_run


def test_a_run_of_mlflow_run_differs_in_one_option(workspace: Workspace) -> None:
    """From one of the command itself; and the run of `-e evaluate` is nested under the other."""
    table = str(DATA / "non_linear.csv")
    same = {"data": table, "epochs": "20", "checkpoint_every": "10"}
    given = [text for name, value in same.items() for text in ("-P", f"{name}={value}")]
    mine = mlflow_run(workspace, *given, "-P", "lr=0.0002", "-P", "quiet=true")
    options = [text for name, value in same.items() for text in (f"--{name}", value)]
    other = subprocess.run(
        [sys.executable, "-m", "runback", "train", *options, "--lr", "1e-4"],
        env=workspace.env, cwd=ROOT, text=True, capture_output=True, check=True, timeout=SECONDS,
    ).stdout.strip()  # fmt: skip
    done = workspace.runback("compare", mine, other, "--json")
    found = json.loads(done.stdout)
    assert found["options"] == {"lr": ["0.0002", "0.0001"]}, done.stderr
    assert not found["data"] and not found["code"] and not found["versions"]
    params = [workspace.client.get_run(run_id).data.params for run_id in (mine, other)]
    assert {name for name in params[1] if params[0][name] != params[1][name]} == {"lr"}
    launch = mlflow_run(workspace, "-e", "evaluate", "-P", f"run_id={mine}")
    assert workspace.client.get_run(launch).data.tags["mlflow.parentRunId"] == mine


def launched(runs: FinishedRuns, command: str, name: str = "") -> str:
    """A run as `mlflow run -e COMMAND` creates it."""
    stored = {tags.ENTRY_POINT: command, "mlflow.source.type": "PROJECT"}
    named = {"run_name": name} if name else {}
    return str(runs.workspace.client.create_run("0", tags=stored, **named).info.run_id)


def test_the_run_of_a_command_is_nested_and_described(
    finished_runs: FinishedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, weak = finished_runs.workspace.client, finished_runs.ids["weak"]
    for command, arguments, parent in (
        ("evaluate", [weak], weak), ("show", [weak[:9]], weak), ("runs", [], None),
        ("compare", [weak, finished_runs.ids["strong"]], None),
    ):  # fmt: skip
        launch = launched(finished_runs, command)
        monkeypatch.setenv("MLFLOW_RUN_ID", launch)
        assert main([command, *arguments]) == 0
        run = client.get_run(launch)
        about = f" of {weak[:8]}" if parent else ""
        assert run.info.run_name == f"{command}{about} (launch only)"
        assert run.data.tags.get("mlflow.parentRunId") == parent
        assert run.data.tags[tags.NOTE].startswith(f"`mlflow run -e {command}`{about}: a command")


def test_names_and_runs_of_others_are_left_alone(
    finished_runs: FinishedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, weak = finished_runs.workspace.client, finished_runs.ids["weak"]
    mine = launched(finished_runs, "show", "my look")
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    assert main(["show", weak]) == 0
    run = client.get_run(mine)
    assert run.info.run_name == "my look" and run.data.tags["mlflow.parentRunId"] == weak
    other = client.create_run("0", run_name="of a notebook").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", other)
    assert main(["show", weak]) == 0
    assert "mlflow.parentRunId" not in client.get_run(other).data.tags
    for run_id in ("0" * 32, weak):  # no such run; one that was trained
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        assert main(["show", weak]) == 0
    assert "mlflow.parentRunId" not in client.get_run(weak).data.tags
