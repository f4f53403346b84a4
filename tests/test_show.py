"""`runback show`: what it says of runs in each state, and its curves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest
from mlflow.entities import Metric

import runback
from conftest import Workspace
from runback.commands.screen import as_screen
from runback.config import TrainConfig
from runback.console.curves import LETTERS, curve_lines
from runback.storage.journal import Journal, Unsent, unsent
from runback.storage.lease import is_held, lease
from runback.tracking import points, run_tag, tags

SECOND = 1000


def add_run(
    workspace: Workspace, status: str = "", changed: dict[str, str] | None = None, **more: str
) -> str:
    """A run with three epochs: two a second apart, and the last after a pause."""
    config = TrainConfig(data="houses.csv", lr=0.25, epochs=9)
    facts = {"config": config.as_params(), "data_path": "/d/houses.csv", "changed": changed or {}}
    named = {tags.VERSION: "0", **run_tag.as_tag(facts)}
    client = workspace.client
    run_id = str(client.create_run("0", SECOND, {**named, **more}, "three epochs").info.run_id)
    for step, (second, value) in enumerate(((2, 4.0), (3, 2.0), (103, 1.0)), start=1):
        client.log_metric(run_id, "cost", value, second * SECOND, step)
    if status:
        client.set_terminated(run_id, status, end_time=106 * SECOND)
    return run_id


def test_a_finished_run_fits_on_a_screen_without_torch(workspace: Workspace) -> None:
    run_id = workspace.train("--lr", "5e-5", "--name", "a first try")
    code = (
        "import sys; from runback.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "a first try"],
        env=workspace.env, cwd=workspace.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines, metrics = done.stdout.splitlines(), workspace.client.get_run(run_id).data.metrics
    assert lines[0] == "a first try  FINISHED"
    assert lines[1] == f"run       {run_id} in experiment Default"
    assert lines[3].endswith("non_linear.csv, rows: 160 training, 20 validation, 20 test")
    assert lines[4] == "options   lr=5e-05  epochs=20  checkpoint_every=10"
    best = f"lowest val_cost at {metrics['best_epoch']:.0f}: {metrics['best_val_cost']:.6g}"
    assert lines[5] == f"epochs    20 of 20; {best}"
    assert lines[6] == "model     non_linear/1"
    (score,) = (line.split() for line in lines if line.startswith("rmse "))
    assert score[1] == f"{metrics['test_rmse']:.6g}" and len(score) == 4
    assert "epochs 1 to 20, log scale from " in done.stdout
    assert lines[-1] == f"  runback reproduce {run_id}" and len(lines) < 30


def test_json_has_the_values_of_the_run(workspace: Workspace) -> None:
    run_id = add_run(workspace, "FINISHED", {"epochs": "12"})
    done = workspace.runback("show", run_id[:8], "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run_id"] == run_id
    assert found["options"] == {"lr": "0.25", "epochs": "12"}
    assert (found["epochs"], found["planned_epochs"]) == (3, 12)
    assert found["costs"] == {"cost": [[1, 4.0], [2, 2.0], [3, 1.0]]}
    assert found["times"] == {"before": 1.0, "epochs": 1.0, "paused": 100.0, "after": 3.0}
    assert found["notes"] == ["resumes have changed epochs"]
    assert json.loads(json.dumps(runback.show(run_id).as_json())) == found


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_finish_is_to_be_resumed(workspace: Workspace, status: str) -> None:
    run_id = add_run(workspace, status, **{tags.ERROR: "DivergedError: the cost is nan"})
    found = runback.show(run_id)
    assert (found.status, found.commands) == (status, (f"runback resume {run_id}",))
    assert found.notes == ("error: DivergedError: the cost is nan",)
    assert as_screen(found).startswith(f"three epochs  {status}\n")


def test_a_run_in_training_is_told_from_a_dead_one(workspace: Workspace) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        run_id = add_run(workspace, **{tags.LEASE: lease(process.pid)})
        found = runback.show(run_id)
        assert (found.notes, found.commands) == ((), (f"runback show {run_id}",))
        assert found.times.after is None
    finally:
        process.kill()
        process.wait()
    dead = runback.show(run_id)
    assert dead.notes == ("the status is RUNNING, but no process trains the run",)
    assert dead.commands == (f"runback resume {run_id}",)


def test_what_waits_for_delivery_is_counted(workspace: Workspace) -> None:
    run_id = add_run(workspace)
    folder = workspace.home(run_id)
    journal = Journal(folder / "journal.db")
    journal.record([("cost", 1.0), ("val_cost", 2.0)], 4)
    journal.post("tags", tags={})
    journal.set_fact("status", ["FINISHED", ""])
    journal.close()
    found = runback.show(run_id)
    assert found.waiting == 3
    assert found.notes[0].endswith("no process trains the run; it has ended here as FINISHED")
    assert found.commands[0] == f"runback sync {run_id}"
    (folder / "journal.db").write_bytes(b"damaged" * 99)
    assert runback.show(run_id).waiting == 0


def test_a_deleted_run_and_one_without_epochs(workspace: Workspace) -> None:
    client = workspace.client
    run_id = str(client.create_run("0", tags={tags.VERSION: "0"}).info.run_id)
    found = runback.show(run_id)
    assert (found.epochs, found.costs, found.scores, found.options) == (None, {}, {}, {})
    assert found.run_id in as_screen(found)
    client.delete_run(run_id)
    deleted = runback.show(run_id)
    assert deleted.notes[0] == "the run is deleted"
    assert deleted.commands == (f"mlflow runs restore --run-id {run_id}",)


def test_control_characters_do_not_reach_the_terminal(workspace: Workspace) -> None:
    run_id = add_run(workspace, "FAILED", **{tags.ERROR: "a\x1b[31m\nb" + 900 * "c"})
    screen = as_screen(runback.show(run_id))
    assert "\x1b" not in screen
    assert "error: a [31m b" in screen
    assert max(len(line) for line in screen.splitlines()) < 500


def test_curves_share_a_logarithmic_scale() -> None:
    lines = curve_lines(
        {"cost": [(1, 100.0), (2, 10.0), (3, 1.0)], "val_cost": [(1, 100.0), (3, 10.0)]}, LETTERS
    )
    assert lines == [
        "cost      100 #+_ 1",
        "val_cost  100 # + 10",
        "              epochs 1 to 3, log scale from 1 to 100",
    ]


def test_curves_of_odd_values_are_drawn() -> None:
    assert curve_lines({"cost": []}) == curve_lines({"cost": [(1, math.nan)]}) == []
    assert curve_lines({"cost": [(7, 0.5), (8, math.inf)]})[0] == "cost  0.5 ▁ inf"
    stored = {"cost": [(1, 0.5), (2, 0.1)], "val_cost": [(1, -sys.float_info.max)]}  # by MLflow
    assert curve_lines(stored) == [
        "cost       0.5 █▁ 0.1",
        "val_cost  -inf  -inf",
        "               epochs 1 to 2, log scale from 0.1 to 0.5",
    ]
    negative = curve_lines({"cost": [(1, -1.0), (2, 1.0)]})
    assert negative == ["cost  -1 ▁█ 1", "         epochs 1 to 2, linear scale from -1 to 1"]
    many = curve_lines({"cost": [(step, 1 / step) for step in range(1, 100_001)]})
    assert len(many[0]) < 80 and many[0].endswith(" 1e-05")


@pytest.mark.parametrize("store", ["workspace", "remote"])
def test_a_long_history_is_read_in_part(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """3000 epochs of 10 ms with a pause of 100 s, from a database and from a server."""
    client = request.getfixturevalue(store).client
    run_id = str(client.create_run("0", SECOND, {tags.VERSION: "0"}).info.run_id)
    for first in range(1, 3001, 1000):
        steps = range(first, first + 1000)
        at = {step: SECOND + 10 * step + 100 * SECOND * (step > 1500) for step in steps}
        client.log_batch(run_id, [Metric("cost", 1 / step, at[step], step) for step in steps])
    monkeypatch.setattr(points, "history", None)
    found = runback.show(run_id)
    costs = found.costs["cost"]
    assert (found.epochs, len(costs)) == (3000, 200)
    assert (costs[0], costs[-1]) == ((1, 1.0), (3000, 1 / 3000))
    assert found.times.paused == pytest.approx(100, abs=0.1)
    assert found.times.epochs == pytest.approx(30, abs=0.1)


def test_a_journal_is_counted_without_being_written(tmp_path) -> None:
    file = tmp_path / "journal.db"
    journal = Journal(file)
    journal.record([("cost", 1.0)], 1)
    journal.post("tags", tags={})
    assert unsent(file) == Unsent(points=1, items=1, refused=0, status="")
    points, last = journal.undelivered_metrics(10)
    journal.acknowledge_metrics(last)
    journal.set_fact("status", ["KILLED", ""])
    assert len(points) == 1 and unsent(file) == Unsent(0, 1, 0, "KILLED")
    journal.close()


def test_a_lease_is_held_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lease(1)
    assert is_held(text)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert not is_held(text)
    assert not is_held("") and not is_held("{}")
