"""The loops in `examples/`, killed at random moments and started again, end as if never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from conftest import PROGRAMS, ROOT, SECONDS, Workspace
from runback.model.spec import load_tensors
from runback.storage.checkpoints import checkpoint_name, local_positions

SCRIPTS = ("gan", "characters", "steps", "mnist")


def start(place: Workspace, script: str, key: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / f"{script}.py")],
        cwd=place.folder, env={**place.env, "RUNBACK_KEY": key}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors


def recorded(place: Workspace) -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """The points and the last checkpoint of each run, by key."""
    client = mlflow.MlflowClient(place.uri)
    found: dict[str, list[Any]] = {}
    for run in client.search_runs(["0"]):
        assert run.info.status == "FINISHED"
        histories = {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        content = histories, last_checkpoint(place.home(run.info.run_id))
        found.setdefault(run.data.tags["runback.key"], []).append(content)
    return found


def last_checkpoint(folder: Path) -> dict[str, Any]:
    newest = max(local_positions(folder / "checkpoints"))
    state: dict[str, Any] = load_tensors(folder / "checkpoints" / checkpoint_name(*newest))
    return state


def equal(one: Any, other: Any) -> bool:
    """Whether nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("script", "kills"),
    [
        ("characters", 1),
        ("steps", 1),
        *(pytest.param(script, 20, marks=pytest.mark.chaos) for script in SCRIPTS),
    ],
)
def test_a_killed_example_is_bit_identical(workspace: Workspace, script: str, kills: int) -> None:
    began = time.monotonic()
    finish(start(workspace, script, "whole"))
    seconds, killed = time.monotonic() - began, 0
    for number in range(200):
        if killed == kills:
            break
        began, process = time.monotonic(), start(workspace, script, "killed")
        try:
            process.wait(random.Random(number).uniform(0.3, 1.0) * seconds)
            seconds = min(seconds, time.monotonic() - began)  # the machine is less busy
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        assert process.wait() in (0, -signal.SIGKILL), process.stderr.read()
        process.stderr.close()
    finish(start(workspace, script, "killed"))
    runs = recorded(workspace)
    assert killed == kills
    for points, checkpoint in runs["killed"]:  # a key that has ended begins another run
        assert equal(runs["whole"][0][0], points)
        assert equal(runs["whole"][0][1], checkpoint)


def test_the_diff_to_the_plain_script_is_ten_lines() -> None:
    plain, ours = PROGRAMS / "mnist_plain.py", ROOT / "examples" / "mnist.py"
    command = ["diff", "--ignore-all-space", str(plain), str(ours)]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert 0 < len([line for line in lines if line.startswith(("<", ">"))]) <= 10
