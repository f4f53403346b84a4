"""`runback resume`: the same run with the metrics and weights of an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import DATA, ROOT, SECONDS, Workspace, wait_until
from finished_runs import FinishedRuns
from in_process import NOISY, difference, last_checkpoint
from runback.commands import resume as resuming
from runback.commands.resume import resume, run_resume
from runback.commands.train import train
from runback.config import MUTABLE_ON_RESUME, TrainConfig
from runback.errors import (
    ConfigError,
    DataError,
    Interrupted,
    RunHeldError,
    RunNotFoundError,
    UsageError,
)
from runback.storage import lease
from runback.storage.checkpoints import local_positions
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, known_run_dirs
from runback.tracking import tags
from runback.tracking.client import CourierClient
from tracking_parts import recorded


@pytest.fixture
def slow() -> tuple[str, ...]:
    """Arguments of a training of 20 batches an epoch; SLEEP_SECONDS sets the time of each."""
    return (
        "train", "--data", str(DATA / "non_linear.csv"), "--model", NOISY,
        "--batch-size", "8", "--epochs", "12", "--checkpoint-every", "3", "--optimizer", "adam",
        "--scheduler", "cosine", "--lr", "0.01",
    )  # fmt: skip


def run_of(workspace: Workspace) -> str:
    """Waits for the journal of the only run and returns the run's ID."""
    wait_until(lambda: bool(known_run_dirs()), SECONDS)
    (folder,) = known_run_dirs()
    return folder.run_id


def wait_for_checkpoint(workspace: Workspace, run_id: str, epoch: int) -> None:
    folder = workspace.home(run_id) / "checkpoints"
    wait_until(lambda: any(p[0] >= epoch for p in local_positions(folder)), SECONDS)


def points(workspace: Workspace, run_id: str) -> dict[tuple[str, int], tuple[float, int]]:
    """Value and timestamp of each point of the run; asserts that no point is there twice."""
    found = {}
    for key in workspace.client.get_run(run_id).data.metrics:
        for p in workspace.client.get_metric_history(run_id, key):
            assert (p.key, p.step) not in found, f"{p.key} of epoch {p.step} is there twice"
            found[p.key, p.step] = (p.value, p.timestamp)
    return found


def artifacts(workspace: Workspace, run_id: str) -> Path:
    """The folder of the run's checkpoint artifacts."""
    uri = workspace.client.get_run(run_id).info.artifact_uri
    folder = Path(uri.removeprefix("file://")) / "checkpoints"
    assert list(folder.glob("checkpoint-*.pt"))
    return folder


def values(found: dict[tuple[str, int], tuple[float, int]]) -> dict[tuple[str, int], float]:
    return {key: value for key, (value, _) in found.items()}


def end(process: subprocess.Popen[str], number: int | None = None) -> tuple[int, str]:
    """Sends a signal, if any, and waits; returns the exit code and standard error."""
    if number is not None:
        process.send_signal(number)
    _, stderr = process.communicate(timeout=SECONDS)
    return process.returncode, stderr


def assert_like_uninterrupted(workspace: Workspace, run_id: str, slow: tuple[str, ...]) -> None:
    """Trains the same without interruption; compares the last checkpoint and all points."""
    whole = workspace.runback(*slow, "--register", "none")
    assert whole.returncode == 0, whole.stderr
    other = whole.stdout.strip()
    one, two = last_checkpoint(workspace.home(run_id)), last_checkpoint(workspace.home(other))
    for state in (one, two):
        state.pop("config")
    assert difference(one, two) == ""
    assert difference(values(points(workspace, run_id)), values(points(workspace, other))) == ""


def test_sigterm_inside_an_epoch_then_two_resumes_at_once(
    workspace: Workspace, slow: tuple[str, ...]
) -> None:
    training = workspace.start(*slow, SLEEP_SECONDS="0.03")
    run_id = run_of(workspace)
    wait_for_checkpoint(workspace, run_id, 3)
    time.sleep(0.25)
    code, stderr = end(training, signal.SIGTERM)
    assert code == 143, stderr
    epoch, batch = local_positions(workspace.home(run_id) / "checkpoints")[-1]
    assert batch > 0, "the signal did not fall into an epoch"
    assert workspace.client.get_run(run_id).info.status == "KILLED"

    both = [workspace.start("resume", run_id[:8], SLEEP_SECONDS="0.02") for _ in range(2)]
    ends = sorted((end(process) for process in both), key=lambda e: e[0])
    assert [code for code, _ in ends] == [0, 3], ends
    assert f"resumed after epoch {epoch} and {batch} batches" in ends[0][1]
    assert f"run {run_id} is held by process" in ends[1][1]
    run = workspace.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "runback.lease" not in run.data.tags
    assert_like_uninterrupted(workspace, run_id, slow)


def test_resume_on_another_machine_is_bit_identical(
    remote: Workspace, slow: tuple[str, ...]
) -> None:
    """After SIGKILL and without local files: artifacts and metric history are enough."""
    training = remote.start(*slow, SLEEP_SECONDS="0.01")
    run_id = run_of(remote)
    wait_for_checkpoint(remote, run_id, 6)
    end(training, signal.SIGKILL)
    wait_until(lambda: remote.client.get_run(run_id).info.status == "FAILED", SECONDS)
    courier = FileLock(remote.home(run_id) / "courier.lock")
    wait_until(lambda: courier.try_acquire(), SECONDS)
    courier.release()
    before = points(remote, run_id)
    shutil.rmtree(remote.folder / ".runback")

    resumed = remote.runback("resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip() == run_id
    assert "not deterministic" not in resumed.stderr
    after = points(remote, run_id)
    assert before.items() <= after.items(), "a point has changed, or its timestamp has"
    assert {step for key, step in after if key == "cost"} == set(range(1, 13))
    run = remote.client.get_run(run_id)
    assert (run.info.status, "runback.error" in run.data.tags) == ("FINISHED", False)
    assert len(remote.client.search_runs([run.info.experiment_id])) == 1
    assert_like_uninterrupted(remote, run_id, slow)


def test_a_resume_waits_for_a_stopped_old_courier(remote: Workspace, slow: tuple[str, ...]) -> None:
    """The old courier is stopped while it holds the delivery lock, and continued later."""
    training = remote.start(*slow, SLEEP_SECONDS="0.03")
    run_id = run_of(remote)
    wait_for_checkpoint(remote, run_id, 3)
    courier = json.loads((remote.home(run_id) / "courier.lock").read_text())["pid"]
    os.kill(courier, signal.SIGSTOP)
    training.kill()
    training.wait()  # the courier keeps its pipes open
    resumed = remote.start("resume", run_id, SLEEP_SECONDS="0.01")
    wait_for_checkpoint(remote, run_id, 9)
    os.kill(courier, signal.SIGCONT)
    code, stderr = end(resumed)
    training.communicate(timeout=SECONDS)
    assert code == 0, stderr
    assert {step for key, step in points(remote, run_id) if key == "cost"} == set(range(1, 13))
    assert remote.client.get_run(run_id).info.status == "FINISHED"


def resumed(run: str, **changes: Any) -> str:
    """Resumes in this process as the command line does; the run ID."""
    with CourierClient() as courier:
        return run_resume(run, changes, courier).run_id


@pytest.fixture
def finished(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A finished run of 20 epochs, which a test may resume in the test process."""
    shutil.copy(DATA / "non_linear.csv", workspace.folder / "table.csv")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    yield workspace.train("--data", "table.csv", "--scheduler", "cosine", "--keep-checkpoints", "0")


@pytest.fixture
def refused(finished_runs: FinishedRuns) -> Callable[..., None]:
    """Resumes the finished run "weak" of 5 epochs; asserts that this fails and changes nothing."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]

    def resume(kind: type[Exception], match: str, **changes: Any) -> None:
        before = client.get_run(run_id).to_dictionary()
        with pytest.raises(kind, match=match):
            resumed(run_id, **changes)
        assert client.get_run(run_id).to_dictionary() == before

    return resume


def test_a_resume_of_a_deleted_run_is_refused(
    finished_runs: FinishedRuns, refused: Callable[..., None]
) -> None:
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    client.delete_run(run_id)
    try:
        refused(RunNotFoundError, f"run {run_id} has been deleted; restore it with", epochs=30)
    finally:
        client.restore_run(run_id)


def test_a_resume_with_other_options_is_refused(refused: Callable[..., None]) -> None:
    refused(ConfigError, "option seed: the run has 0, and a resume cannot change it", seed=1)
    refused(ConfigError, "option epochs: 4 is less than the 5 epochs", epochs="4")


def test_a_resume_with_changed_data_is_refused(
    finished_runs: FinishedRuns, refused: Callable[..., None]
) -> None:
    table = finished_runs.workspace.folder / "table.csv"
    rows = table.read_text()
    table.write_text(rows.replace("1", "2", 1))
    try:
        refused(DataError, "not the data of the run", epochs=30)
    finally:
        table.write_text(rows)


def test_a_finished_run_resumes_with_more_epochs(
    workspace: Workspace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    untouched = workspace.client.get_run(finished)
    assert resumed(finished) == finished
    assert "has finished; continue with" in capsys.readouterr().err
    assert workspace.client.get_run(finished).to_dictionary() == untouched.to_dictionary()

    before = points(workspace, finished)
    assert resumed(finished, epochs=30, seed=0, checkpoint_every="5") == finished
    run, after = workspace.client.get_run(finished), points(workspace, finished)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "20"
    changed = recorded(workspace.client, finished)["changed"]
    assert changed == {"epochs": "30", "checkpoint_every": "5"}
    assert before.items() <= after.items()
    assert {step for key, step in after if key == "cost"} == set(range(1, 31))
    rates = {step: value for (key, step), (value, _) in after.items() if key == "lr"}
    assert rates[20] > 0
    assert rates[21] == 0, "the cosine that ended after 20 epochs goes on"
    assert [p[0] for p in local_positions(workspace.home(finished) / "checkpoints")] == [
        10,
        20,
        25,
        30,
    ]
    assert len(workspace.client.search_model_versions("name = 'table'")) <= 2


def test_a_run_stopped_by_patience_can_be_resumed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit-identical to a run without early stopping."""
    hasty = TrainConfig(data=str(DATA / "non_linear.csv"), lr=2e-4, epochs=40, patience=1)
    run_id = train(hasty).run_id
    done = max(step for _, step in points(workspace, run_id))
    assert done < 40
    assert f"stopped after epoch {done}: no better val_cost for 1 epochs" in capsys.readouterr().err
    assert resumed(run_id, epochs=50, register="other") == run_id
    told = capsys.readouterr().err
    assert f"its patience of 1 epochs ended after epoch {done}; continue with: " in told
    assert f"runback resume {run_id} --patience 0" in told
    assert "option register has no effect: no epoch is left to train" in told
    assert resumed(run_id, patience=0) == run_id
    patient = train(dataclasses.replace(hasty, patience=0)).run_id
    again, whole = (values(points(workspace, name)) for name in (run_id, patient))
    scored = {
        (key, step) for key, step in again if key.startswith(("test_", "best_")) and step < 40
    }
    assert scored, "the first end was scored, and stays so"
    assert {point: again[point] for point in again.keys() - scored} == whole
    ends = [last_checkpoint(workspace.home(name)) for name in (run_id, patient)]
    assert not difference(ends[0]["model_state_dict"], ends[1]["model_state_dict"])
    assert not difference(ends[0]["optimizer_state_dict"], ends[1]["optimizer_state_dict"])


def test_a_changed_value_is_reported_on_resume(
    workspace: Workspace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recorded value is changed, and its epoch is trained again."""
    journal = workspace.home(finished) / "journal.db"
    with sqlite3.connect(journal) as database:
        database.execute("UPDATE metrics SET value = 1.5 WHERE key = 'cost' AND step = 17")
    database.close()
    for file in (workspace.home(finished) / "checkpoints").glob("checkpoint-000020.*"):
        file.write_bytes(b"damaged")
    for file in artifacts(workspace, finished).glob("checkpoint-000020.*"):
        file.unlink()
    before = points(workspace, finished)
    resumed(finished)
    told = capsys.readouterr().err
    assert "checkpoint-000020.json" in told
    assert "not deterministic: cost of epoch 17 was 1.5 and is " in told
    run = workspace.client.get_run(finished)
    assert run.data.tags["runback.mismatch"].startswith("cost of epoch 17 was 1.5 and is ")
    assert repr(before["cost", 17][0]) in run.data.tags["runback.mismatch"]
    assert run.info.status == "FINISHED"
    assert points(workspace, finished) == before


CONDITIONS: list[tuple[Any, str]] = [
    ({"torch": "2.0.0", "threads": "64"}, "torch was 2.0.0 and is "),
    ({"processor": "\x1b[2J" + "x" * 200}, "processor was '\\x1b[2Jxxx"),
    ({"torch": ["2.0.0"], "other": 1}, "torch was ['2.0.0'] and is "),
    ({}, ""),
    ("2.0.0", ""),
]


@pytest.mark.parametrize(("recorded_as", "told"), CONDITIONS, ids=repr)
def test_changed_conditions_are_told_on_resume(
    workspace: Workspace,
    finished: str,
    capsys: pytest.CaptureFixture[str],
    recorded_as: Any,
    told: str,
) -> None:
    file = workspace.home(finished) / "checkpoints" / "checkpoint-000020.json"
    manifest = json.loads(file.read_text())
    assert "threads" in manifest["versions"]
    versions = recorded_as
    if isinstance(recorded_as, dict):
        versions = {**manifest["versions"], **recorded_as}
    file.write_text(json.dumps({**manifest, "versions": versions}))
    resumed(finished, epochs=22)
    lines = [line for line in capsys.readouterr().err.splitlines() if "last bits" in line]
    description = workspace.client.get_run(finished).data.tags["mlflow.note.content"]
    assert len(lines) == bool(told)
    assert ("under other conditions" in description) == bool(told)
    if told:
        assert f"since the checkpoint, {told}" in lines[0] and len(lines[0]) < 400
        assert told in description


def lease_of_another_machine(until: float) -> str:
    """A lease that ends at `until`, in seconds since the epoch."""
    return json.dumps({"host": "other-host", "home": "/x", "pid": 7, "until": int(until * 1000)})


def test_a_run_that_another_machine_holds_is_refused(finished_runs: FinishedRuns) -> None:
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    client.set_tag(run_id, tags.LEASE, lease_of_another_machine(time.time() + 99))
    try:
        with pytest.raises(
            RunHeldError, match=r"held by process 7 on other-host \(/x\) until 20"
        ) as got:
            resumed(run_id, epochs=30)
        assert got.value.exit_code == 3
        assert client.get_run(run_id).info.status == "FINISHED"
    finally:
        client.set_tag(run_id, tags.LEASE, "")


def test_a_trained_run_without_checkpoints_is_refused(
    workspace: Workspace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a checkpoint nor a journal is left, and the lease of another machine has expired.

    With from_scratch, it is trained again.
    """
    workspace.client.set_tag(finished, tags.LEASE, lease_of_another_machine(1e9))
    before = points(workspace, finished)
    shutil.rmtree(workspace.folder / ".runback")
    for file in artifacts(workspace, finished).iterdir():
        file.unlink()
    untouched = workspace.client.get_run(finished).to_dictionary()
    folder = workspace.home(finished) / "checkpoints"
    says = f"has trained 20 epochs, but no valid checkpoint is in {folder} or among its artifacts"
    with pytest.raises(UsageError, match=f"{says} .*--from-scratch true"):
        resumed(finished, epochs="25")
    assert workspace.client.get_run(finished).to_dictionary() == untouched
    assert resume(finished, epochs=25, from_scratch=True).delivered
    assert "training starts again from epoch 0" in capsys.readouterr().err
    after = points(workspace, finished)
    assert before.items() <= after.items()
    assert {step for key, step in after if key == "cost"} == set(range(1, 26))
    rates = {step: value for (key, step), (value, _) in after.items() if key == "lr"}
    assert rates[21] == 0, "the schedule has another shape than the run began with"


def test_a_store_that_was_moved_is_named(
    workspace: Workspace, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifacts have absolute paths; with the local folder gone, no checkpoint is left."""
    folder = artifacts(workspace, finished).parent
    shutil.rmtree(workspace.folder / ".runback")
    folder.rename(folder.with_name("moved"))
    with pytest.raises(UsageError, match="do not exist: the store has absolute paths") as error:
        resumed(finished, epochs="25")
    assert str(folder) in str(error.value)
    folder.with_name("moved").rename(folder)
    assert resumed(finished, epochs="25") == finished


def test_a_run_killed_before_its_first_checkpoint_resumes(
    workspace: Workspace, finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its journal has recorded all of it, and knows of no checkpoint."""
    options = {"data": "table.csv", "epochs": 10**8, "checkpoint_every": 10**8, "register": "none"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    training = workspace.start("train", *words)
    new: set[str] = set()

    def trains() -> bool:
        new.update(folder.run_id for folder in known_run_dirs() if folder.run_id != finished)
        return bool(new) and "cost" in workspace.client.get_run(min(new)).data.metrics

    wait_until(trains, SECONDS)
    end(training, signal.SIGKILL)
    (run_id,) = new
    wait_until(lambda: workspace.client.get_run(run_id).info.status == "FAILED", SECONDS)
    done = max(step for _, step in points(workspace, run_id))
    capsys.readouterr()
    assert resumed(run_id, epochs=done + 10) == run_id
    assert "has no checkpoint yet: training starts from epoch 0" in capsys.readouterr().err
    assert {step for key, step in points(workspace, run_id) if key == "cost"} == set(
        range(1, done + 11)
    )


def mlflow_run(workspace: Workspace, *arguments: str) -> None:
    """`mlflow run` of this project in the current environment."""
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, *arguments], cwd=workspace.folder, text=True, capture_output=True, timeout=SECONDS,
        env={**workspace.env, "PATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_resume_through_mlflow_run(workspace: Workspace, slow: tuple[str, ...]) -> None:
    """`--run-id RUN` continues RUN; with `-P run_id=RUN` MLflow's launch run is nested under RUN."""
    training = workspace.start(*slow, SLEEP_SECONDS="0.03")
    run_id = run_of(workspace)
    wait_for_checkpoint(workspace, run_id, 3)
    assert end(training, signal.SIGTERM)[0] == 143
    mlflow_run(workspace, "-e", "resume", "--run-id", run_id)
    assert workspace.client.get_run(run_id).info.status == "FINISHED"
    assert {step for key, step in points(workspace, run_id) if key == "cost"} == set(range(1, 13))

    mlflow_run(workspace, "-e", "resume", "-P", f"run_id={run_id[:10]}", "-P", "epochs=14")
    assert {step for key, step in points(workspace, run_id) if key == "cost"} == set(range(1, 15))
    launch, run = workspace.client.search_runs(["0"], order_by=["attributes.start_time DESC"])
    assert run.info.run_id == run_id
    assert launch.data.tags["mlflow.parentRunId"] == run_id
    assert launch.info.run_name == f"resume of {run_id[:8]} (launch only)"
    assert {launch.info.status, run.info.status} == {"FINISHED"}
    assert not launch.data.metrics

    from runback.tracking.find_run import find_run

    assert find_run(workspace.client, "latest").run_id == run_id
    with pytest.raises(UsageError, match="not trained by runback"):
        _ = find_run(workspace.client, launch.info.run_id).config


# Parts without a training


def test_only_mutable_options_change_on_resume() -> None:
    config = TrainConfig(epochs=20)
    new, real = resuming.changed(config, {"epochs": "40", "seed": "0", "keep_checkpoints": 2})
    assert (new.epochs, new.keep_checkpoints) == (40, 2)
    assert real == {"epochs": 40, "keep_checkpoints": 2}
    others: dict[str, Any] = {
        "seed": 1, "batch_size": 7, "lr": 0.5, "split": "1:1:1", "shuffle": False, "model": "mlp",
        "precision": "float64", "threads": 2, "target": ("y",), "num_workers": 1,
    }  # fmt: skip
    assert not others.keys() & MUTABLE_ON_RESUME
    for name, value in others.items():
        with pytest.raises(ConfigError, match=f"option {name}: the run has"):
            resuming.changed(config, {name: value})
        assert dataclasses.replace(config, **{name: value}).identity() != config.identity()
    for name in MUTABLE_ON_RESUME - {"device"}:
        value = "a" if isinstance(getattr(config, name), str) else 3
        assert dataclasses.replace(config, **{name: value}).identity() == config.identity()
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        resuming.changed(config, {"epoch": 3})


def tag(**fields: Any) -> str:
    return json.dumps({**json.loads(lease.lease(os.getpid())), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        tag(),
        tag(until=0),
        tag(host="other-host", until=0),
        tag(home="/other-home", pid=2**22 + 1),
    ],
    ids=["none", "own", "expired", "other_host_expired", "other_home_dead"],
)
def test_an_expired_lease_is_ignored(text: str) -> None:
    lease.require_free(text, "run x")


@pytest.mark.parametrize(
    "text",
    ["nonsense", "[]", "{}", '{"host": 1}', tag(pid="x"), tag(until="x"), tag(until=2**60)],
    ids=["text", "list", "empty", "number", "pid", "until", "huge_until"],
)
def test_an_invalid_lease_is_no_lease(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        lease.require_free(text, "run x")


@pytest.mark.parametrize("field", ["host", "home"])
def test_a_lease_of_another_host_or_home_is_refused(field: str) -> None:
    with pytest.raises(RunHeldError, match="run x is held by process"):
        lease.require_free(tag(**{field: "/other"}), "run x")


def contend(path: Path, times: int) -> None:
    """Two processes acquire one lock at the same moment, `times` times: exactly one gets it."""
    for _ in range(times):
        start = time.monotonic() + 0.03
        children = [_forked(path, start) for _ in range(2)]
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert codes == [0, 3]


def _forked(path: Path, start: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        time.sleep(max(0.0, start - time.monotonic()))
        with FileLock(path).acquire("run x"):
            time.sleep(1.3)  # longer than the other one waits
        code = 0
    except RunHeldError as error:
        code = 3 if "held by process" in str(error) else 4
    finally:
        os._exit(code)


def test_one_of_two_simultaneous_holders_gets_the_lock(tmp_path: Path) -> None:
    contend(tmp_path / "lock", 5)


@pytest.mark.chaos
def test_one_of_two_holders_gets_the_lock_every_time(tmp_path: Path) -> None:
    contend(tmp_path / "lock", 50)


def test_an_interruption_names_the_resume_command() -> None:
    assert "runback resume abc" in str(Interrupted("abc", signal.SIGTERM))


def test_a_run_id_that_is_a_path_is_refused() -> None:
    from runback.storage.paths import run_dir

    for name in ("../x", "a/b", "", "a" * 200):
        with pytest.raises(UsageError):
            run_dir(name)
    assert isinstance(run_dir("abc"), RunDir)
