"""`runback runs`: which runs it lists, in which order, and what it says of each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import runback
from conftest import Workspace
from runback.commands.runs import as_table
from runback.errors import RunNotFoundError, UsageError
from runback.tracking import tags
from runback.tracking.find_run import find_run


def add_run(workspace: Workspace, name: str, model: str, started: int, **metrics: float) -> str:
    """A run as a training leaves it, without the training."""
    client = workspace.client
    run_id = client.create_run("0", started, {tags.VERSION: "0"}, name).info.run_id
    client.log_param(run_id, "model", model)
    for key, value in metrics.items():
        client.log_metric(run_id, key, value, step=7)
    client.set_terminated(run_id)
    return str(run_id)


@pytest.fixture
def three(workspace: Workspace) -> dict[str, str]:
    """The first is registered as the champion, the last has ended before its first epoch."""
    workspace.client.create_run("0", run_name="not ours")
    ids = {
        "good": add_run(
            workspace, "good", "mlp", 1000, cost=1.0, best_val_cost=0.25, test_cost=0.5
        ),
        "poor": add_run(workspace, "poor", "linear", 2000, cost=9.0, test_cost=8.0),
        "none": add_run(workspace, "none", "mlp", 3000),
    }
    workspace.client.create_registered_model("m")
    for name in ("poor", "good"):
        workspace.client.create_model_version("m", f"runs:/{ids[name]}/model", ids[name])
    workspace.client.set_registered_model_alias("m", "champion", "2")
    return ids


def names(**options: object) -> list[str]:
    return [run.name for run in runback.runs(**options)]  # type: ignore[arg-type]


def test_runs_are_sorted_filtered_and_cut(three: dict[str, str]) -> None:
    assert names() == ["none", "poor", "good"]
    assert names(last=2) == ["none", "poor"]
    assert names(sort="test_cost")[:2] == ["good", "poor"]
    assert names(sort="-test_cost")[:2] == ["poor", "good"]
    assert names(filter="params.model = 'mlp'") == ["none", "good"]
    assert names(experiment="Default") == names(experiment="0") == names()


def test_a_run_has_its_scores_version_and_aliases(three: dict[str, str]) -> None:
    none, poor, good = runback.runs()
    assert (good.run_id, good.status, good.epochs) == (three["good"], "FINISHED", 7)
    assert (good.best_val_cost, good.scores) == (0.25, {"test_cost": 0.5})
    assert (good.registered_as, good.aliases) == ("m/2", ("champion",))
    assert (poor.registered_as, poor.aliases, poor.best_val_cost) == ("m/1", (), None)
    assert (none.epochs, none.scores, none.registered_as) == (None, {}, "")
    lines = as_table([none, poor, good]).splitlines()
    assert lines[0].split()[:6] == ["NAME", "ID", "STATUS", "AGE", "EPOCHS", "BEST_VAL_COST"]
    assert lines[3].startswith(f"good  {three['good'][:8]}  FINISHED  ")
    assert lines[3].endswith("d  7       0.25           0.5        m/2 @champion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "nowhere"}, "no experiment 'nowhere'; there are: Default"),
        ({"filter": "params.model ~ 3"}, "the search for runs: "),
        ({"last": 0}, "--last 0: give a number of runs"),
    ],
)
def test_a_wrong_selection_is_refused(
    workspace: Workspace, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        names(**options)


def test_the_command_prints_json_without_torch(three: dict[str, str], workspace: Workspace) -> None:
    code = (
        "import sys; from runback.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "runs", "--last", "1", "--sort", "test_cost", "--json"],
        env=workspace.env, cwd=workspace.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)
    assert (run["name"], run["aliases"]) == ("good", ["champion"])


def test_a_run_is_found_by_a_name_that_is_unique(workspace: Workspace) -> None:
    name = "mlp diabetes lr=0.003"
    run_id = add_run(workspace, name, "mlp", 1000)
    assert find_run(workspace.client, name).run_id == run_id
    other = add_run(workspace, name, "mlp", 2000)
    with pytest.raises(RunNotFoundError, match=f"2 runs are called '{name}': {other}, {run_id}"):
        find_run(workspace.client, name)
    for wrong in ("mlp diabetes", "abc", "a name: with", "../a name"):
        with pytest.raises(RunNotFoundError, match="no run "):
            find_run(workspace.client, wrong)
