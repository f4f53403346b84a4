"""Processes beside each other, stopped, and short of disk or of open files.

The short versions run by default; `make chaos` runs the long ones.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import Workspace, wait_until
from runback.storage.checkpoints import local_positions
from test_full_disk import assert_good, disk, leave_free  # noqa: F401 - a fixture
from tracking_parts import (
    check_delivered,
    ended,
    quick,
    run_and_courier,
    start_trainer,
    status_of,
)

SHORT = quick("--epochs", "40", "--batch-size", "32", "--checkpoint-every", "4")


def each_point_once(workspace: Workspace, run_id: str, epochs: int) -> None:
    for key in ("cost", "val_cost"):
        steps = [point.step for point in workspace.client.get_metric_history(run_id, key)]
        assert sorted(steps) == list(range(1, epochs + 1))


def runs_of(workspace: Workspace) -> dict[str, str]:
    return {run.info.run_id: run.info.status for run in workspace.client.search_runs(["0"])}


def resume_twice_at_once(workspace: Workspace, times: int) -> Counter[int]:
    """Kills a training, then starts two resumes at the same moment; the exit codes of both."""
    codes = Counter[int]()
    for _ in range(times):
        known = runs_of(workspace).keys()
        trainer = workspace.start(*quick("--epochs", "4000", "--checkpoint-every", "50"))
        wait_until(lambda known=known: len(runs_of(workspace)) > len(known), 120)
        (run_id,) = runs_of(workspace).keys() - known
        folder = workspace.home(run_id) / "checkpoints"
        wait_until(lambda folder=folder: bool(local_positions(folder)), 120)
        trainer.kill()
        ended(trainer)
        both = [workspace.start("resume", run_id) for _ in range(2)]
        found = sorted(ended(process)[0] for process in both)
        # Where the first one is done before the second one asks, that finds a finished run.
        assert found in ([0, 3], [0, 0]), found
        codes.update(found)
        assert status_of(workspace, run_id) == "FINISHED"
        each_point_once(workspace, run_id, 4000)
    return codes


@pytest.mark.chaos
def test_two_resumes_at_once_train_once_20_times(remote: Workspace) -> None:
    codes = resume_twice_at_once(remote, 20)
    sys.stdout.write(f"20 times two resumes at once; exit codes {dict(codes)}\n")


def train_at_once(workspace: Workspace, count: int) -> None:
    """Starts trainings at the same moment on a store that does not exist yet."""
    (workspace.folder / "mlflow.db").unlink()
    ends = [ended(p, 400) for p in [workspace.start(*SHORT) for _ in range(count)]]
    assert [code for code, _ in ends] == [0] * count, [errors for code, errors in ends if code]
    assert list(runs_of(workspace).values()) == ["FINISHED"] * count
    for run_id in runs_of(workspace):
        each_point_once(workspace, run_id, 40)
        check_delivered(workspace, run_id)
    models = workspace.client.search_logged_models(["0"])
    assert [str(model.status) for model in models] == ["READY"] * count
    assert len(workspace.client.search_model_versions()) == count


@pytest.mark.chaos
def test_eight_trainings_on_a_fresh_store_are_whole(workspace: Workspace) -> None:
    train_at_once(workspace, 8)
    sys.stdout.write("8 trainings at once on a fresh store: 8 whole runs\n")


@pytest.mark.parametrize(
    "times", [1, pytest.param(25, marks=pytest.mark.chaos)], ids=["once", "25 times"]
)
def test_stopped_and_continued_processes_lose_nothing(workspace: Workspace, times: int) -> None:
    """SIGSTOP and SIGCONT to the training process and to its courier, at random moments."""
    generator = random.Random(times)
    for _ in range(times):
        trainer = start_trainer(workspace, 600, 0.002, "FINISHED")
        run_id, courier = run_and_courier(trainer)
        for pid in generator.sample((trainer.pid, courier), 2):
            time.sleep(generator.uniform(0.0, 0.4))
            os.kill(pid, signal.SIGSTOP)
            time.sleep(generator.uniform(0.1, 1.0))
            os.kill(pid, signal.SIGCONT)
        code, errors = ended(trainer)
        assert code == 0, errors
        assert "cannot be used" not in errors
        assert status_of(workspace, run_id) == "FINISHED"
        assert check_delivered(workspace, run_id) == 1200
    sys.stdout.write(f"{times} runs with both processes stopped and continued: all whole\n")


def limit_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_training_needs_fewer_than_64_open_files(workspace: Workspace, command: str) -> None:
    words = SHORT
    if command == "resume":
        words = ("resume", workspace.train("--batch-size", "32"), "--epochs", "40")
    done = subprocess.run(
        [sys.executable, "-m", "runback", *words], cwd=workspace.folder, env=workspace.env, text=True,
        capture_output=True, preexec_fn=limit_open_files, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    each_point_once(workspace, done.stdout.strip(), 40)


def fill_at_each_write(workspace: Workspace, disk: Path, rooms: list[int]) -> Counter[str]:  # noqa: F811
    """Trains with so many kB free for RUNBACK_HOME; the run ends true, and resumes with room."""
    outcomes, env = (
        Counter[str](),
        {"RUNBACK_HOME": str(disk / "home"), "RUNBACK_DRAIN_SECONDS": "2"},
    )
    for room in rooms:
        known, ballast = runs_of(workspace).keys(), leave_free(disk, room)
        done = workspace.runback(*SHORT, "--register", "none", **env)
        ballast.unlink()
        assert "Traceback" not in done.stderr, done.stderr
        new = runs_of(workspace).keys() - known
        outcomes[f"exit {done.returncode}, {len(new)} run"] += 1
        if done.returncode == 0:
            assert new
        else:
            assert str(disk) in done.stderr, f"{room} kB: {done.stderr}"
        for run_id in new:
            finish(workspace, run_id, env)
            assert_good(disk / "home" / run_id)
            shutil.rmtree(disk / "home" / run_id)  # else the next run has no room for its resume
    assert set(runs_of(workspace).values()) <= {"FINISHED"}
    return outcomes


def finish(workspace: Workspace, run_id: str, env: dict[str, str]) -> None:
    """The run has a true status; resumed with room, it is whole."""
    assert status_of(workspace, run_id) in ("FAILED", "FINISHED")
    done = workspace.runback("resume", run_id, **env)
    assert done.returncode == 0, done.stderr
    assert json.loads(workspace.runback("sync", run_id, **env).stdout)["waiting"] == 0
    each_point_once(workspace, run_id, 40)


def test_a_disk_full_at_a_command_s_write_ends_true(workspace: Workspace, disk: Path) -> None:  # noqa: F811
    fill_at_each_write(workspace, disk, [8, 120])


@pytest.mark.chaos
def test_a_disk_full_at_each_write_ends_true(workspace: Workspace, disk: Path) -> None:  # noqa: F811
    outcomes = fill_at_each_write(workspace, disk, list(range(0, 400, 8)))
    sys.stdout.write(f"50 sizes of a disk, 8 kB apart: {dict(outcomes)}\n")
