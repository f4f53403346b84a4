"""A run killed by SIGKILL at random moments and resumed equals the uninterrupted run."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from conftest import DATA, Workspace, wait_until
from in_process import NOISY, bits, difference, history, last_checkpoint, train_until
from runback.config import TrainConfig
from runback.storage.checkpoints import local_positions
from runback.storage.paths import known_run_dirs

OPTIONS = {
    "data": str(DATA / "non_linear.csv"), "batch_size": "16", "epochs": "60", "optimizer": "adam",
    "checkpoint_every": "3", "checkpoint_minutes": "0.002", "keep_checkpoints": "3",
    "scheduler": "plateau", "lr": "0.01", "model": NOISY,
}  # fmt: skip


def digest(folder: Path) -> str:
    """SHA-256 over the weights of the newest checkpoint."""
    found = hashlib.sha256()
    for name, tensor in sorted(last_checkpoint(folder)["model_state_dict"].items()):
        found.update(name.encode() + bits(torch.as_tensor(tensor)))
    return found.hexdigest()


def arguments() -> list[str]:
    pairs = OPTIONS.items()
    return [word for name, value in pairs for word in (f"--{name.replace('_', '-')}", value)]


def killed_child(folder: Path, config: TrainConfig, seconds: float) -> bool:
    """Trains in a child and kills it after `seconds`; returns whether it was still training."""
    child = os.fork()
    if child == 0:
        try:
            train_until(folder, config)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize(
    "times", [20, pytest.param(200, marks=pytest.mark.chaos)], ids=["20 kills", "200 kills"]
)
def test_killed_trainings_resume_to_equal_results(tmp_path: Path, times: int) -> None:
    """Without the courier, so that kills are frequent and many fall into a checkpoint's write."""
    rng, config = random.Random(times), TrainConfig.from_mapping(OPTIONS)
    whole = tmp_path / "whole"
    began = time.monotonic()
    train_until(whole, config)
    seconds = time.monotonic() - began
    killed, halves, round_ = 0, 0, 0
    while killed < times:
        round_ += 1
        run = tmp_path / f"run{round_}"
        while killed < times and killed_child(run, config, rng.uniform(0.0, 0.2 * seconds)):
            killed += 1
            halves += len(list((run / "checkpoints").glob(".*.tmp")))
        train_until(run, config)
        assert digest(run) == digest(whole)
        assert difference(last_checkpoint(run), last_checkpoint(whole)) == ""
        assert difference(history(run), history(whole)) == ""
    print(f"kills {killed}, runs {round_}, unfinished files {halves}, all equal")  # noqa: T201


def kill_and_resume(workspace: Workspace, times: int, seed: int) -> None:
    """Kills and resumes commands, one run after another, until `times` kills are reached."""
    rng, words = random.Random(seed), arguments()
    whole = workspace.runback("train", *words, "--register", "none")
    assert whole.returncode == 0, whole.stderr
    expected = workspace.home(whole.stdout.strip())
    killed = equal = 0
    while killed < times:
        known = {path.name for path in workspace.folder.glob(".runback/*")}
        process = workspace.start("train", *words, "--register", "none")
        run_id = new_run(workspace, known)
        for _ in range(min(times - killed, rng.randrange(2, 5))):
            before = local_positions(workspace.home(run_id) / "checkpoints")
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if local_positions(workspace.home(run_id) / "checkpoints") != before:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.4))
            killed += process.poll() is None
            process.kill()
            process.communicate()
            process = workspace.start("resume", run_id)
        assert process.communicate(timeout=180) is not None
        assert process.returncode == 0
        assert digest(workspace.home(run_id)) == digest(expected)
        assert_each_point_once(workspace, run_id)
        equal += 1
    print(f"kills {killed}, resumed runs {equal}, digests equal {equal}, points once {equal}")  # noqa: T201


def new_run(workspace: Workspace, known: set[str]) -> str:
    """Waits for the journal of a new run and returns the run's ID."""

    def begun() -> set[str]:
        return {folder.run_id for folder in known_run_dirs()} - known

    wait_until(lambda: bool(begun()), 180)
    return begun().pop()


def assert_each_point_once(workspace: Workspace, run_id: str) -> None:
    run = workspace.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for key in ("cost", "val_cost"):
        steps = [point.step for point in workspace.client.get_metric_history(run_id, key)]
        assert sorted(steps) == list(range(1, 61))
    steps = [point.step for point in workspace.client.get_metric_history(run_id, "lr")]
    assert len(steps) == len(set(steps))


def test_killed_commands_resume_to_equal_results(workspace: Workspace) -> None:
    kill_and_resume(workspace, 2, seed=1)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(10))
def test_many_killed_commands_resume_to_equal_results(workspace: Workspace, seed: int) -> None:
    """200 kills in all."""
    kill_and_resume(workspace, 20, seed)
