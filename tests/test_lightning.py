"""`RunbackLogger`: Lightning's Trainer records in a run of runback, and goes on in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs Lightning: pip install 'runback[lightning]'")

import runback
from conftest import PROGRAMS, SECONDS, Workspace
from own_runs import points, runs_of
from programs.lightning_fit import fit, trainer_of
from runback.integrations.framework_run import FrameworkRun
from runback.integrations.lightning import restore_last

# Lightning's own, such as of loaders without workers and folders that are not empty.
pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\.pytorch")
STEPS = list(range(20))


def artifacts(place: Workspace, run_id: str) -> dict[str, Path]:
    """The artifacts in the folder "checkpoints", by name."""
    folder = Path(place.client.download_artifacts(run_id, "checkpoints"))
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.*")}


def one(place: Workspace) -> Any:
    (run,) = runs_of(place, "lit")
    return run


def test_a_fit_and_a_test_are_recorded_in_one_run(workspace: Workspace) -> None:
    model, logger = fit(hidden=3)
    run = one(workspace)
    assert logger.run_id == logger.version == run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "more/hidden": "3"}
    assert [step for step, _ in points(workspace, run.info.run_id, "cost")] == STEPS
    stored = artifacts(workspace, run.info.run_id)
    names = ["ck-step=15.ckpt", "ck-step=20.ckpt", "last.ckpt"]  # the others were deleted
    assert sorted(stored) == sorted([*names, *(f"{name}.manifest.json" for name in names)])
    for name in names:
        manifest = json.loads(stored[f"{name}.manifest.json"].read_text())
        content = stored[name].read_bytes()
        described = {"": {"size": len(content), "sha256": sha256(content).hexdigest()}}
        assert manifest["files"] == described
        assert manifest["step"] == (15 if "15" in name else 20)
        assert manifest["run_id"] == run.info.run_id
    trainer_of(logger).test(model, verbose=False)  # goes on in the same run
    assert one(workspace).info.status == "FINISHED"
    assert [step for step, _ in points(workspace, run.info.run_id, "test_cost")] == [0]


def test_a_killed_fit_goes_on_in_the_same_run(workspace: Workspace) -> None:
    killed = subprocess.run(
        [sys.executable, str(PROGRAMS / "lightning_fit.py"), "k", "13"],
        cwd=workspace.folder, env=workspace.env, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again, _ = fit(key="k")
    assert one(workspace).info.status == "FINISHED"
    whole, _ = fit(key="other")
    assert torch.equal(again.net.weight, whole.net.weight)
    one_run, other = (run.info.run_id for run in runs_of(workspace, "lit"))
    found = points(workspace, one_run, "cost")
    assert found == points(workspace, other, "cost")
    assert [step for step, _ in found] == STEPS


def test_an_exception_in_fit_ends_the_run_as_failed(workspace: Workspace) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fit(at=7, act=fail, key="k")
    run = one(workspace)
    assert run.info.status == "FAILED"
    assert run.data.tags["runback.error"] == "ValueError: mine"
    fit(key="k")
    assert one(workspace).info.status == "FINISHED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_in_fit_ends_the_run_as_killed(workspace: Workspace, number: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        fit(at=7, act=lambda: os.kill(os.getpid(), number))
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first one on
    assert one(workspace).info.status == "KILLED"


def test_a_last_file_that_is_behind_is_replaced(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        fit(at=18, act=stop, key="k")
    (last,) = workspace.folder.glob("lit/*/checkpoints/last.ckpt")
    newest, whole = last.with_name("ck-step=15.ckpt"), last.read_bytes()
    run = FrameworkRun("Lightning", "lit", key="k")
    assert run.is_resumed
    restore_last(run)
    assert "is now a copy" not in capfd.readouterr().err
    damages = {
        "cut off": lambda: last.write_bytes(whole[:900]),
        "missing": lambda: None,
        "behind": lambda: last.symlink_to("ck-step=10.ckpt"),
    }
    for name, damage in damages.items():
        last.unlink()
        damage()
        restore_last(run)
        assert last.read_bytes() == newest.read_bytes() and not last.is_symlink(), name
    assert capfd.readouterr().err.count("and is now a copy of ck-step=15.ckpt") == 3
    run.leave()


def test_what_cannot_be_recorded_is_left_out_and_said(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = runback.lightning.RunbackLogger("lit")
    for step in (1, 2):
        logger.log_metrics({"lr (adam)": 1, "text": "a", "../up": 3.0}, step=step)
    logger.log_hyperparams({"lr": 0.1, "a;b": 1, "c": {"d": None}})
    logger.finalize("success")
    again = runback.lightning.RunbackLogger("lit", resume=logger.run_id)
    again.log_hyperparams({"lr": 0.2, "width": 3})
    again.finalize("success")
    run = one(workspace)
    assert points(workspace, run.info.run_id, "lr _adam_") == [(1, 1), (2, 1)]
    assert run.data.params == {"lr": "0.1", "a_b": "1", "c/d": "None", "width": "3"}
    said = capfd.readouterr().err
    assert said.count("left out: metric text: str is not a number") == 1
    assert said.count("left out: metric '../up'") == 1
    assert "the run keeps the params that it has: lr 0.1, not 0.2" in said


def test_a_key_that_cannot_be_searched_is_an_error() -> None:
    with pytest.raises(runback.UsageError, match="contains a quotation mark"):
        runback.lightning.RunbackLogger("lit", key="it's")
