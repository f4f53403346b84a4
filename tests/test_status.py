"""Statuses and exit codes after signals, failures and the end of the launching process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DATA, PROGRAMS, ROOT, Workspace, wait_until
from tracking_parts import FOREVER, alive, check_delivered, ended, quick, status_of, training_run


def start_endless(
    workspace: Workspace, *arguments: str, **env: str
) -> tuple[subprocess.Popen[str], str]:
    """Starts a training that does not end by itself; returns it and its run after some epochs."""
    process = workspace.start(*quick(*FOREVER, *arguments), **env)
    return process, training_run(workspace)


def resumable(workspace: Workspace, run_id: str) -> bool:
    folder = workspace.home(run_id) / "checkpoints"
    return any(folder.glob("checkpoint-*.json"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_killed_run_that_can_be_resumed(
    workspace: Workspace, number: int, code: int
) -> None:
    process, run_id = start_endless(
        workspace, "--num-workers", "1" if number == signal.SIGINT else "0"
    )
    process.send_signal(number)
    if number == signal.SIGINT:
        process.send_signal(signal.SIGTERM)  # as mlflow's cancel() does; no second Ctrl-C
    returned, errors = ended(process)
    assert returned == code, errors
    assert f"continue with: runback resume {run_id}" in errors and "Traceback" not in errors
    assert status_of(workspace, run_id) == "KILLED"
    assert resumable(workspace, run_id)
    check_delivered(workspace, run_id)


def test_a_signal_during_evaluation_kills_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runback import TrainConfig
    from runback.commands import train as training
    from runback.errors import Interrupted

    def evaluation(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(training, "finish", evaluation)
    started = time.monotonic()
    with pytest.raises(Interrupted) as interrupted:
        training.train(TrainConfig(data=str(DATA / "non_linear.csv"), epochs=3))
    assert time.monotonic() - started < 50
    assert interrupted.value.exit_code == 143
    assert status_of(workspace, interrupted.value.run_id) == "KILLED"
    assert resumable(workspace, interrupted.value.run_id)


def test_a_run_killed_at_its_creation_has_what_it_needs(workspace: Workspace) -> None:
    """Its split and the user's source were in its outbox before anybody could see its ID."""
    model = f"{PROGRAMS}/nets.py:Net"
    process = workspace.start(*quick("--model", model, *FOREVER))
    wait_until(lambda: bool(workspace.client.search_runs(["0"])), 60)
    process.kill()
    process.communicate()
    (run,) = workspace.client.search_runs(["0"])
    run_id = run.info.run_id
    wait_until(lambda: status_of(workspace, run_id) == "FAILED", 60)
    assert {f.path for f in workspace.client.list_artifacts(run_id)} >= {"split.json", "source"}
    sources = {f.path for f in workspace.client.list_artifacts(run_id, "source")}
    assert sources == {"source/nets.py", "source/layers.py"}
    check_delivered(workspace, run_id)


def test_a_second_ctrl_c_ends_at_once(workspace: Workspace) -> None:
    process, run_id = start_endless(workspace)
    process.send_signal(signal.SIGSTOP)  # both arrive before the loop can end by itself
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.001)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - started < 5
    ended(process)
    assert status_of(workspace, run_id) == "KILLED"


def test_sigkill_with_loader_workers_leaves_a_failed_run(workspace: Workspace) -> None:
    process, run_id = start_endless(workspace, "--num-workers", "2")
    process.kill()
    killed = time.monotonic()
    wait_until(lambda: status_of(workspace, run_id) == "FAILED", 30)
    assert time.monotonic() - killed < 30
    ended(process)
    check_delivered(workspace, run_id)


def test_a_diverging_training_fails_with_its_epoch(
    workspace: Workspace,
) -> None:
    done = workspace.runback(*quick("--lr", "1", "--epochs", "400", "--checkpoint-every", "1"))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (run,) = workspace.client.search_runs(["0"])
    run_id = run.info.run_id
    assert run.info.status == "FAILED"
    history = workspace.client.get_metric_history(run_id, "cost")
    last = max(point.step for point in history)
    assert f"epoch {last}" in run.data.tags["runback.error"]
    assert f"epoch {last}" in done.stderr
    assert (
        "is nan" in run.data.tags["runback.non_finite"]
        or "is inf" in (run.data.tags["runback.non_finite"])
    )
    assert done.stderr.count("MLflow shows infinities") == 1
    resumed = workspace.runback("resume", run_id)  # from a good one, to the same end
    assert resumed.returncode == 1 and "not deterministic" not in resumed.stderr


def test_a_start_without_a_server_leaves_nothing(workspace: Workspace) -> None:
    started = time.monotonic()
    done = workspace.runback(
        *quick("--epochs", "2"),
        MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9", RUNBACK_CONNECT_SECONDS="2",
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        time.monotonic() - started < 100
    )  # imports included, on a busy machine; MLflow alone takes four minutes
    assert "http://127.0.0.1:9 did not respond within 2 s" in done.stderr
    assert "secret" not in done.stderr and "Traceback" not in done.stderr
    assert not list((workspace.folder / ".runback").glob("*"))


def test_an_unusable_home_is_refused(workspace: Workspace) -> None:
    (workspace.folder / "file").write_text("")
    homeless = workspace.runback(
        *quick("--epochs", "2"), RUNBACK_HOME=str(workspace.folder / "file" / "x")
    )
    assert homeless.returncode == 2, homeless.stderr
    assert "file/x cannot be used: Not a directory" in homeless.stderr
    assert "Traceback" not in homeless.stderr
    assert workspace.client.search_runs(["0"]) == []


def test_an_invalid_drain_time_is_refused(workspace: Workspace) -> None:
    wrong = workspace.runback(*quick("--epochs", "2"), RUNBACK_DRAIN_SECONDS="soon")
    assert wrong.returncode == 2
    assert "RUNBACK_DRAIN_SECONDS: 'soon' is not a number of seconds" in wrong.stderr
    assert workspace.client.search_runs(["0"]) == []


# Under mlflow run


def launch(workspace: Workspace, epochs: str = "100000000") -> subprocess.Popen[str]:
    """`mlflow run` of this project in a separate process group, as in a terminal."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [
        sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local",
        "--experiment-id", "0", "-P", f"epochs={epochs}", "-P", "checkpoint_every=100000000",
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=workspace.folder, env={**workspace.env, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def trainer_of(workspace: Workspace, run_id: str) -> int:
    """The ID of the process that holds the run's lock, read from the lock file."""
    import json

    return int(json.loads((workspace.home(run_id) / "lock").read_text())["pid"])


def test_sigterm_to_mlflow_run_stops_the_training(workspace: Workspace) -> None:
    """SIGTERM to `mlflow run`, which forwards nothing."""
    launcher = launch(workspace)
    run_id = training_run(workspace)
    trainer = trainer_of(workspace, run_id)
    launcher.terminate()
    launcher.wait(30)
    wait_until(lambda: status_of(workspace, run_id) == "KILLED", 30)
    ended(launcher)
    assert not alive(trainer)
    assert resumable(workspace, run_id)
    check_delivered(workspace, run_id)


def test_ctrl_c_under_mlflow_run_leaves_a_killed_run(workspace: Workspace) -> None:
    """SIGINT to the group; mlflow sends a SIGTERM after it, and must not overwrite the status."""
    launcher = launch(workspace)
    run_id = training_run(workspace)
    os.killpg(launcher.pid, signal.SIGINT)
    _, errors = ended(launcher)
    assert status_of(workspace, run_id) == "KILLED"
    assert resumable(workspace, run_id)
    assert f"runback resume {run_id}" in errors


@pytest.mark.chaos  # the previous test covers it; this one isolates the signal
def test_mlflow_run_does_not_overwrite_the_status(workspace: Workspace) -> None:
    """SIGTERM to the trainer alone: mlflow sees a failed command, the run stays KILLED."""
    launcher = launch(workspace)
    run_id = training_run(workspace)
    os.kill(trainer_of(workspace, run_id), signal.SIGTERM)
    returned, _ = ended(launcher)
    assert returned != 0
    assert status_of(workspace, run_id) == "KILLED"


# StopSignals, without a training


@pytest.fixture
def terminal() -> Iterator[None]:
    """Sets the default action of SIGHUP, which nohup would ignore."""
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, old)


@pytest.mark.usefixtures("terminal")
def test_a_deferred_signal_is_raised_at_the_end() -> None:
    from runback.errors import Interrupted
    from runback.open_run.signals import StopSignals

    told: list[int] = []
    with StopSignals(lambda: told.append(1)) as watch:
        with pytest.raises(Interrupted) as noted, watch.deferred():
            assert not watch.should_checkpoint()
            os.kill(os.getpid(), signal.SIGTERM)
            assert watch.should_checkpoint() and watch.received == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGTERM)
        assert noted.value.exit_code == 143
    assert told == [1]


@pytest.mark.usefixtures("terminal")
def test_a_signal_outside_the_loop_is_raised() -> None:
    from runback.errors import Interrupted
    from runback.open_run.signals import StopSignals

    with StopSignals(lambda: None), pytest.raises(Interrupted) as raised:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(5)
    assert raised.value.exit_code == 129


def test_a_signal_during_the_final_status_is_only_noted() -> None:
    from runback.open_run.signals import StopSignals

    with StopSignals(lambda: None) as watch:
        watch.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.received == signal.SIGTERM


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["SIGINT", "SIGTERM"], 7),  # as mlflow's cancel() sends them
        (["SIGTERM", "SIGINT"], 7),
        (["SIGTERM", "SIGINT", "SIGINT"], 130),
        (["SIGINT", "SIGINT"], 130),
    ],
    ids=str,
)
def test_only_two_interrupts_end_at_once(tmp_path: Path, names: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, PROGRAMS / "signal_itself.py", *names], cwd=tmp_path)
    assert done.returncode == code


def test_sighup_under_nohup_is_ignored() -> None:
    from runback.open_run.signals import StopSignals

    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(lambda: None) as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.received == 0
    finally:
        signal.signal(signal.SIGHUP, old)
