"""`RunbackCallback`: the Trainer of transformers records in a run of runback, and goes on in it."""

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

pytest.importorskip("transformers", reason="needs it: pip install 'runback[transformers]'")

import runback
from conftest import PROGRAMS, SECONDS, Workspace
from own_runs import points, runs_of
from programs.transformers_train import train

STEPS = list(range(1, 21))


def one(place: Workspace) -> Any:
    (run,) = runs_of(place, "hf")
    return run


def test_a_training_is_recorded_with_its_checkpoints(workspace: Workspace) -> None:
    trainer, callback = train()
    trainer.evaluate()
    run = one(workspace)
    assert callback.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.1"
    for name in ("loss", "grad_norm"):
        assert [step for step, _ in points(workspace, run.info.run_id, name)] == STEPS
    assert [step for step, _ in points(workspace, run.info.run_id, "eval_loss")] == [5, 10, 15, 20]
    folder = Path(workspace.client.download_artifacts(run.info.run_id, "checkpoints"))
    names = ["checkpoint-15", "checkpoint-20"]  # the others were deleted
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*names, *(f"{name}.manifest.json" for name in names)]
    )
    for name in names:
        manifest = json.loads((folder / f"{name}.manifest.json").read_text())
        found = {file.name: file.read_bytes() for file in (folder / name).iterdir()}
        assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= found.keys()
        assert manifest["files"] == {
            path: {"size": len(content), "sha256": sha256(content).hexdigest()}
            for path, content in found.items()
        }
        assert f"checkpoint-{manifest['step']}" == name


def test_a_killed_training_goes_on_in_the_same_run(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = subprocess.run(
        [sys.executable, str(PROGRAMS / "transformers_train.py"), "k", "13"],
        cwd=workspace.folder, env=workspace.env, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    cut = workspace.folder / "k" / "checkpoint-15"  # as of a process killed while it saves
    cut.mkdir()
    (cut / "model.safetensors").write_bytes(b"\0" * 8)
    again, _ = train(key="k")
    assert not cut.exists() or (cut / "trainer_state.json").exists()
    assert "checkpoint-15 is not whole, and is renamed to incomplete-checkpoint-15" in (
        capfd.readouterr().err
    )
    assert one(workspace).info.status == "FINISHED"
    whole, _ = train(key="other")
    assert torch.equal(again.model.net.weight, whole.model.net.weight)
    one_run, other = (run.info.run_id for run in runs_of(workspace, "hf"))
    for name in ("loss", "eval_loss", "learning_rate"):
        found = points(workspace, one_run, name)
        assert found == points(workspace, other, name)
    assert "not deterministic" not in capfd.readouterr().err


def test_a_signal_saves_and_ends_the_run_as_killed(workspace: Workspace) -> None:
    with pytest.raises(runback.Interrupted) as caught:
        train(at=7, act=lambda: os.kill(os.getpid(), signal.SIGTERM), key="k")
    assert caught.value.exit_code == 128 + signal.SIGTERM
    run = one(workspace)
    assert run.info.status == "KILLED"
    assert (workspace.folder / "k" / "checkpoint-7").is_dir()
    assert "train_loss" not in run.data.metrics
    train(key="k")
    assert one(workspace).info.status == "FINISHED"
    assert [step for step, _ in points(workspace, run.info.run_id, "loss")] == STEPS


def test_an_exception_ends_the_run_at_the_end_of_the_block(workspace: Workspace) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(at=7, act=fail)
    run = one(workspace)
    assert run.info.status == "FAILED"
    assert run.data.tags["runback.error"] == "ValueError: mine"
