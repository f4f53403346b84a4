"""`runback fork`: a new run from a checkpoint of another, as exact, or with other options."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runback
from conftest import DATA, SECONDS, Workspace, wait_until
from finished_runs import FinishedRuns
from in_process import NOISY, difference, last_checkpoint
from runback import TrainConfig, fork, train
from runback.cli import main
from runback.storage.checkpoints import local_positions
from runback.storage.paths import known_run_dirs
from runback.tracking import tags
from tracking_parts import recorded

OPTIONS: dict[str, Any] = {
    "data": str(DATA / "non_linear.csv"), "model": NOISY, "batch_size": 32, "epochs": 6,
    "checkpoint_every": 2, "optimizer": "adam", "lr": 0.01, "scheduler": "cosine",
    "register": "none",
}  # fmt: skip
AFTER = 2


def points(place: Workspace, run_id: str) -> dict[tuple[str, int], float]:
    """All points of cost, val_cost and lr."""
    found: dict[tuple[str, int], float] = {}
    for key in ("cost", "val_cost", "lr"):
        for p in place.client.get_metric_history(run_id, key):
            assert (p.key, p.step) not in found
            found[p.key, p.step] = p.value
    return found


def assert_like_the_end_of(place: Workspace, run_id: str, fork_id: str) -> None:
    """Compares a fork with its run after the epoch at which it begins."""
    whole, forked = points(place, run_id), points(place, fork_id)
    assert min(step for _, step in forked) == AFTER + 1
    if ("lr", AFTER + 1) not in whole:  # a fork records its first one, though it did not change
        assert forked.pop(("lr", AFTER + 1)) == whole["lr", 1]
    assert not difference(forked, {at: v for at, v in whole.items() if at[1] > AFTER})
    ends = [last_checkpoint(place.home(name)) for name in (run_id, fork_id)]
    for end in ends:
        for name in ("config", "fork"):
            end.pop(name, None)
    assert not difference(*ends)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Workspace, str]:
    """A store with a finished run that has checkpoints of epochs 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("forks")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    own = {"MLFLOW_TRACKING_URI": uri, "RUNBACK_HOME": str(folder / ".runback")}
    place = Workspace(folder, uri, {**os.environ, **own})
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    done = place.runback("train", *options)
    assert done.returncode == 0, done.stderr
    return place, done.stdout.strip()


@pytest.fixture
def workspace(
    store: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """The store of the module, to which forks are added; the test runs in another folder."""
    place, _ = store
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_TRACKING_URI", "RUNBACK_HOME"):
        monkeypatch.setenv(name, place.env[name])
    monkeypatch.chdir(tmp_path)
    yield place
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)


@pytest.fixture
def parent(store: tuple[Workspace, str]) -> str:
    """The run."""
    return store[1]


@pytest.fixture
def elsewhere(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same store on another machine, which has no local files."""
    home = str(tmp_path / "elsewhere" / ".runback")
    monkeypatch.setenv("RUNBACK_HOME", home)
    return Workspace(tmp_path / "elsewhere", workspace.uri, {**workspace.env, "RUNBACK_HOME": home})


def test_an_unchanged_fork_is_bit_identical(
    workspace: Workspace, parent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = workspace.client.get_run(parent).to_dictionary()
    forked = fork(parent, at=AFTER).run_id
    assert_like_the_end_of(workspace, parent, forked)
    assert workspace.client.get_run(parent).to_dictionary() == before
    told = capsys.readouterr().err
    assert f"run {forked} is a fork of run {parent} after epoch 2" in told
    assert "the state of the optimizer adam, the schedule cosine, the best epoch so far (" in told
    stored = workspace.client.get_run(forked)
    assert stored.data.tags[tags.FORK_OF] == parent
    assert recorded(workspace.client, forked)["fork"]["epoch"] == 2
    assert stored.info.run_name.endswith(f"(fork of {parent[:8]} after 2)")
    assert f"Fork of run `{parent}` after epoch 2." in stored.data.tags[tags.NOTE]


def test_a_fork_on_another_machine_is_bit_identical(
    workspace: Workspace, elsewhere: Workspace, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the experiment of its run."""
    workspace.client.create_experiment("other")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    forked = fork(parent[:8], at=AFTER, trust=True).run_id
    assert workspace.client.get_run(forked).info.experiment_id == "0"
    shutil.copytree(elsewhere.home(forked), workspace.home(forked))
    assert_like_the_end_of(workspace, parent, forked)


@pytest.mark.parametrize("at", ["once", "later"])
def test_a_killed_fork_resumes_bit_identically(workspace: Workspace, parent: str, at: str) -> None:
    """Killed before its first checkpoint, and resumed without local files; or killed after it."""
    known = known_run_dirs()
    process = workspace.start("fork", parent, "--at", "2", SLEEP_SECONDS="0.1")
    wait_until(lambda: len(known_run_dirs()) > len(known), SECONDS)
    forked = next(d.run_id for d in known_run_dirs() if d not in known)
    if at == "later":
        folder = workspace.home(forked) / "checkpoints"
        wait_until(lambda: bool(local_positions(folder)), SECONDS)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: workspace.client.get_run(forked).info.status == "FAILED", SECONDS)
    if at == "once":
        assert not local_positions(workspace.home(forked) / "checkpoints")
        shutil.rmtree(workspace.home(forked))
    runback.resume(forked)
    assert_like_the_end_of(workspace, parent, forked)
    tagged = workspace.client.get_run(forked).data.tags
    assert f"Fork of run `{parent}` after epoch 2" in tagged[tags.NOTE]


def test_changed_options_are_used_and_told(
    workspace: Workspace, parent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The schedule begins anew, over the epochs that are left; the optimizer keeps its state."""
    forked = fork(parent, at=AFTER, lr=0.5, weight_decay=0.1, epochs=7, checkpoint_every=1).run_id
    told = capsys.readouterr().err
    assert "begun anew: the schedule cosine" in told
    changed = 'lr 0.01 -> 0.5, weight_decay 0.0 -> 0.1, scheduler_args {} -> {"T_max": 5}'
    assert f"changed: {changed}, epochs 6 -> 7" in told
    stored = workspace.client.get_run(forked)
    assert stored.data.params["scheduler_args"] == '{"T_max": 5}'
    assert "lr 0.01 -> 0.5" in recorded(workspace.client, forked)["fork"]["changed"]
    rates = {step: v for (key, step), v in points(workspace, forked).items() if key == "lr"}
    assert rates[3] == 0.5 and sorted(rates) == [3, 4, 5, 6, 7]
    saved = last_checkpoint(workspace.home(forked))["optimizer_state_dict"]
    assert saved["param_groups"][0]["weight_decay"] == 0.1
    steps = last_checkpoint(workspace.home(parent))["optimizer_state_dict"]["state"][0]["step"]
    assert saved["state"][0]["step"] == steps / 6 * 7
    assert runback.reproduce(forked).equal


def test_another_optimizer_begins_anew(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own arguments are not those of the other; without a scheduler none is mentioned."""
    options = {**OPTIONS, "model": "polynomial", "optimizer": "sgd", "momentum": 0.9, "lr": 0.0}
    run_id = train(TrainConfig(**{**options, "scheduler": "none"})).run_id
    with pytest.raises(runback.ConfigError, match="option patience: 1 epochs without a better"):
        fork(run_id, at=4, patience=1)
    capsys.readouterr()
    forked = fork(run_id, at=4, optimizer="adam", seed=0, loss="auto").run_id
    told = capsys.readouterr().err
    assert "; begun anew: the state of the optimizer adam\n" in told
    assert "changed: optimizer sgd -> adam, momentum 0.9 -> 0.0\n" in told
    saved = last_checkpoint(workspace.home(forked))["optimizer_state_dict"]
    assert saved["state"][0]["step"] == 10  # five batches in each of the two epochs


def test_a_fork_of_a_resumed_run_has_its_schedule(workspace: Workspace) -> None:
    """The schedule of the first number of epochs, which the resume has kept."""
    options = {**OPTIONS, "model": "polynomial", "lr": 1e-5, "epochs": 4}
    run_id = train(TrainConfig(**options)).run_id
    runback.resume(run_id, epochs=6)
    assert_like_the_end_of(workspace, run_id, fork(run_id, at=AFTER).run_id)


REFUSED = [
    ({"at": 25}, "option at: run {run} has no checkpoint of epoch 25; it has 30, 60"),
    ({}, "option epochs: 60 is not more than the 60 after which the fork begins"),
    ({"epochs": 50}, "option epochs: 50 is not more than the 60 after which"),
    ({"model": "linear"}, "option model: the run has polynomial, and a fork cannot change it"),
    ({"features": "x"}, "option features: the run has none, and a fork cannot change it"),
    ({"at": 30, "loss": "bce"}, "option loss: the run has mse, and a fork cannot change it"),
    ({"at": 30, "precision": "float64"}, "option precision: the run has float32, and a fork"),
    ({"at": 30, "seed": 1}, "option seed: run {run} has drawn its split with another one"),
    ({"at": 30, "lr": -1.0}, "option lr: -1.0 is less than 0.0"),
    ({"at": 30, "optimizer": "nadamm"}, "option optimizer: 'nadamm' is not one of"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=[str(o) for o, _ in REFUSED])
def test_what_cannot_be_forked_is_refused(
    finished_runs: FinishedRuns, options: dict[str, Any], text: str
) -> None:
    """No run is left, and nothing in RUNBACK_HOME."""
    run_id, client = finished_runs.ids["strong"], finished_runs.workspace.client
    folders = sorted(Path(os.environ["RUNBACK_HOME"]).iterdir())
    runs = len(client.search_runs(["0"]))
    with pytest.raises(runback.UsageError) as refused:
        fork(run_id, **options)
    assert text.format(run=run_id) in str(refused.value)
    assert sorted(Path(os.environ["RUNBACK_HOME"]).iterdir()) == folders
    assert len(client.search_runs(["0"])) == runs


def test_other_data_are_refused(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    table = finished_runs.workspace.folder / "table.csv"
    (tmp_path / "longer.csv").write_text(table.read_text() + "1,2\n")
    with pytest.raises(runback.DataError, match="not the data of the run"):
        fork(finished_runs.ids["strong"], "longer.csv", at=30)
    shutil.copyfile(table, tmp_path / "moved.csv")
    with pytest.raises(runback.UsageError, match="option epochs: 60 is not more than"):
        fork(finished_runs.ids["strong"], "moved.csv")


def test_a_fork_is_a_run_like_others(
    workspace: Workspace, parent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate, promote, compare, show, runs and reproduce; of a user's module, found in its run."""
    forked = fork(parent, at=AFTER, lr=0.02, register="forked").run_id
    assert runback.evaluate(forked).scores["cost"] > 0
    assert runback.promote(forked).moved
    assert "lr" in str(runback.compare(parent, forked).as_json()["options"])
    assert f"it is a fork of run {parent} after epoch 2, with lr 0.01 -> 0.02" in " ".join(
        runback.show(forked).notes
    )
    capsys.readouterr()
    assert main(["show", forked]) == 0
    assert "0.01 -> 0.02" in capsys.readouterr().out
    assert runback.runs()[0].epochs == 6
    found = runback.reproduce(forked)
    assert found.equal, found.first_difference
    assert found.points == 4 * 3  # epochs 3 to 6: cost, val_cost, lr


def test_the_same_fork_goes_on_by_its_key(workspace: Workspace, parent: str) -> None:
    known = known_run_dirs()
    process = workspace.start(
        "fork", parent, "--at", "2", "--key", "night", SLEEP_SECONDS="0.05"
    )  # fmt: skip
    wait_until(lambda: len(known_run_dirs()) > len(known), SECONDS)
    process.kill()
    process.communicate()
    begun = next(d.run_id for d in known_run_dirs() if d not in known)
    with pytest.raises(runback.ConfigError, match=r"option lr: the run has 0\.01"):
        fork(parent, at=AFTER, key="night", lr=0.5)
    with pytest.raises(runback.UsageError, match="has been begun, and not as a fork of run"):
        fork(parent, at=4, key="night")
    assert fork(parent, key="night").run_id == begun  # not from the newest, as it was begun
    assert len(known_run_dirs()) == len(known) + 1
    assert_like_the_end_of(workspace, parent, begun)


def test_a_fork_takes_over_the_run_of_a_launcher(
    workspace: Workspace, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [workspace.client.create_run("0").info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_RUN_ID", runs[0])
    assert main(["fork", parent, "--model", "mlp"]) == 2
    assert workspace.client.get_run(runs[0]).info.status == "FAILED"
    monkeypatch.setenv("MLFLOW_RUN_ID", runs[1])
    assert main(["fork", parent, "--at", "4"]) == 0
    stored = workspace.client.get_run(runs[1])
    assert stored.info.status == "FINISHED"
    assert recorded(workspace.client, runs[1])["fork"]["epoch"] == 4


def test_a_fork_from_a_damaged_checkpoint_says_so(
    workspace: Workspace, parent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy among the artifacts is used; without it, the fork is refused."""
    name = "checkpoint-000002.pt"
    stored = Path(workspace.client.get_run(parent).info.artifact_uri.removeprefix("file://"))
    copies = workspace.home(parent) / "checkpoints" / name, stored / "checkpoints" / name
    good = copies[0].read_bytes()
    try:
        copies[0].write_bytes(good[:-1] + b"x")
        assert_like_the_end_of(workspace, parent, fork(parent, at=AFTER).run_id)
        assert "checkpoint-000002.pt: damaged" in capsys.readouterr().err
        copies[1].write_bytes(b"")
        with pytest.raises(runback.UsageError, match="no valid checkpoint of epoch 2"):
            fork(parent, at=AFTER)
    finally:
        for file in copies:
            file.write_bytes(good)


def test_a_frame_is_forked(workspace: Workspace) -> None:
    import pandas as pd

    frame = pd.read_csv(DATA / "non_linear.csv")
    options: dict[str, Any] = {
        "model": "polynomial",
        "epochs": 4,
        "checkpoint_every": 2,
        "lr": 1e-5,
    }
    run_id = train(frame, **options).run_id
    assert_like_the_end_of(workspace, run_id, fork(run_id, at=AFTER).run_id)


def test_a_damaged_epoch_of_a_fork_is_named(workspace: Workspace) -> None:
    damaged = {tags.FORK_OF: "x", tags.RUN: '{"fork": {"epoch": 4.5}}'}
    run_id = workspace.client.create_run("0", tags=damaged).info.run_id
    with pytest.raises(
        runback.TrackingError, match=rf"run {run_id}: tag runback\.run is damaged: its fork"
    ):
        runback.show(run_id)


def test_a_run_of_an_own_loop_is_not_forked_here(workspace: Workspace) -> None:
    with runback.run("own") as run:
        list(run.epochs(1))
    with pytest.raises(runback.UsageError, match=r"fork it in its script, with runback.run\("):
        fork(run.id)
