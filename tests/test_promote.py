"""`promote` moves an alias to the better model, refuses incomparable ones, and rolls back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import DATA, PROGRAMS, Workspace
from finished_runs import FinishedRuns, make_runs
from runback.cli import main
from runback.commands.compare import compare
from runback.commands.evaluate import evaluate
from runback.commands.promote import promote, rollback
from runback.errors import UsageError


def register_apart(finished_runs: FinishedRuns, name: str, *runs: str) -> list[str]:
    """Registers runs under a separate name; returns models:/NAME/VERSION of each."""
    client = finished_runs.workspace.client
    client.create_registered_model(name)
    made = []
    for run in runs:
        run_id = finished_runs.ids[run]
        (first,) = client.search_model_versions(f"run_id = '{run_id}' AND name = '{HOME[run]}'")
        version = client.create_model_version(
            name, first.source, run_id, tags=first.tags, model_id=first.source.rpartition("/")[2]
        )
        made.append(f"models:/{name}/{version.version}")
    return made


HOME = {"weak": "table", "strong": "table", "own": "diabetes"}


def holder(finished_runs: FinishedRuns, name: str, alias: str = "champion") -> str | None:
    found = finished_runs.workspace.client.get_registered_model(name).aliases.get(alias)
    return None if found is None else str(found)


def test_promote_moves_the_alias_and_rollback_returns_it(finished_runs: FinishedRuns) -> None:
    weak, strong = register_apart(finished_runs, "ladder", "weak", "strong")
    first = promote(weak)
    assert (first.moved, first.holder, first.version, first.metric) == (True, None, "1", "rmse")
    assert first.score == evaluate(finished_runs.ids["weak"]).scores["rmse"]
    second = promote(strong)
    assert (second.moved, second.holder, second.version) == (True, "1", "2")
    assert second.score is not None and second.holder_score is not None
    assert second.score < second.holder_score == first.score
    assert promote(strong).reason == "it has the alias already"
    third = promote(weak)
    assert (third.moved, holder(finished_runs, "ladder")) == (False, "2")
    assert third.reason == "its rmse is not better"
    forced = promote(weak, force=True)
    assert (forced.moved, holder(finished_runs, "ladder")) == (True, "1")
    for restored in ("2", "1", None):
        assert rollback(weak).version == restored
        assert holder(finished_runs, "ladder") == restored
    with pytest.raises(UsageError, match="no promotion to undo"):
        rollback(weak)


def test_a_significant_promotion_needs_a_clear_difference(
    finished_runs: FinishedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    weak, strong = register_apart(finished_runs, "clear", "weak", "strong")
    first = promote(strong, significant=True)
    assert (first.moved, first.significant, first.low) == (True, None, None)
    worse = promote(weak, significant=True)
    assert (worse.moved, worse.significant) == (False, False)
    promote(weak, force=True)
    assert main(["promote", strong, "--significant", "true"]) == 0
    noise = json.loads(capsys.readouterr().out)
    assert (noise["moved"], noise["significant"]) == (False, False)
    assert noise["reason"] == "its rmse is better, but not significantly"
    assert noise["low"] < noise["score"] - noise["holder_score"] < 0 < noise["high"]
    ranking = compare(finished_runs.ids["weak"], finished_runs.ids["strong"]).ranking
    assert ranking is not None
    same = pytest.approx((ranking.models[1].low, ranking.models[1].high))
    assert (-noise["high"], -noise["low"]) == same
    table = str(finished_runs.workspace.folder / "table.csv")
    clear = promote(strong, data=table, significant=True)
    assert (clear.moved, clear.significant, clear.reason) == (True, True, "its rmse is better")
    assert clear.high is not None and clear.high < 0


def test_promote_follows_the_direction_of_each_metric(finished_runs: FinishedRuns) -> None:
    weak, strong = register_apart(finished_runs, "directions", "weak", "strong")
    for metric in ("cost", "rmse", "mae", "r2"):
        promote(weak, alias=metric, metric=metric)
        assert promote(strong, alias=metric, metric=metric).moved
        assert not promote(weak, alias=metric, metric=metric).moved
    with pytest.raises(UsageError, match="metric 'auc' is not one of cost, rmse, mae, r2"):
        promote(weak, metric="auc")


def test_other_test_rows_need_a_common_table(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: dict[str, dict[str, Any]] = {
        "one": {"data": "table.csv", "epochs": 3, "register": "m"},
        "two": {"data": "table.csv", "epochs": 30, "register": "m", "seed": 7},
        "none": {"data": "table.csv", "epochs": 2, "register": "none"},
        "untested": {"data": "table.csv", "epochs": 2, "register": "m", "split": "1:0:0"},
    }
    ids = make_runs(workspace, runs).ids
    assert main(["promote", ids["one"]]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["moved"] and first["holder"] is None
    assert main(["promote", ids["two"]]) == 2
    assert "differ; compare them on a table that neither was trained on" in capsys.readouterr().err
    assert main(["promote", ids["two"], "--data", str(DATA / "non_linear.csv")]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["moved"] and second["score"] < second["holder_score"]
    assert main(["promote", ids["none"]]) == 2
    assert "no registered version" in capsys.readouterr().err
    assert main(["promote", ids["untested"]]) == 2
    assert main(["promote", ids["untested"], "--force"]) == 0
    assert "forced, though" in json.loads(capsys.readouterr().out.splitlines()[-1])["reason"]
    assert main(["promote", ids["one"], "--rollback"]) == 0
    undone = json.loads(capsys.readouterr().out)
    assert (undone["version"], undone["replaced"]) == (second["version"], "3")
    workspace.client.set_registered_model_alias("m", "champion", "1")
    assert main(["promote", ids["one"], "--rollback"]) == 2
    assert "moved by other means" in capsys.readouterr().err
    assert main(["promote", ids["one"], "--alias", "latest"]) == 2
    (tmp_path / "table.csv").write_text("x,y\n1,2\n")
    assert main(["promote", ids["two"]]) == 2
    assert main(["promote", ids["two"], "--force", "maybe"]) == 2
    assert "option force: 'maybe' is not true or false" in capsys.readouterr().err


def test_concurrent_promotions_are_serialized(finished_runs: FinishedRuns) -> None:
    """Each is compared with the holder that it replaces, so the better one has the alias."""
    versions = register_apart(finished_runs, "race", "strong", "weak")
    program = PROGRAMS / "promote_on_request.py"
    two = [
        subprocess.Popen(
            [sys.executable, program, version], env=dict(os.environ), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for version in versions
    ]  # fmt: skip

    def tell(alias: str) -> list[dict[str, Any]]:
        for process in two:
            assert process.stdin is not None
            process.stdin.write(alias + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in two if process.stdout]

    try:
        tell("")  # both have imported what they need
        for number in range(4):
            strong, weak = tell(f"race{number}")
            assert [strong["holder"], weak["holder"]] in ([None, "1"], ["2", None]), (strong, weak)
            assert strong["moved"] and weak["moved"] == (weak["holder"] is None)
            assert holder(finished_runs, "race", f"race{number}") == strong["version"]
    finally:
        for process in two:
            process.communicate()
    assert [process.returncode for process in two] == [0, 0]


def test_promote_and_rollback_through_a_server(
    remote: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = make_runs(
        remote, {"a": {"data": "table.csv", "epochs": 3}, "b": {"data": "table.csv", "epochs": 40}}
    ).ids
    for run, moved in (("a", True), ("b", True), ("a", False)):
        assert main(["promote", ids[run]]) == 0
        assert json.loads(capsys.readouterr().out)["moved"] is moved
    champion = remote.client.get_model_version_by_alias("table", "champion")
    assert champion.run_id == ids["b"]
    assert main(["promote", "models:/table@champion", "--rollback"]) == 0
    capsys.readouterr()
    assert remote.client.get_model_version_by_alias("table", "champion").run_id == ids["a"]
    assert main(["evaluate", "models:/table@champion"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == ids["a"]
