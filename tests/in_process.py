"""Training in the test process with the parts that the commands use, stopped at any position.

There is no courier: nothing is delivered, the journal and the checkpoints are the result.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import PROGRAMS
from runback.commands import train
from runback.commands.resume import restore_into
from runback.commands.train import keep
from runback.config import TrainConfig
from runback.errors import DivergedError, Interrupted
from runback.open_run.run import Run
from runback.seeding import generator_states, restore_generators
from runback.stateful import snapshot
from runback.storage.checkpoints import (
    Manifest,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
)
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir
from runback.tracking.messages import ListArtifacts
from runback.training.setup import TrainingSetup, prepare
from runback.training.state import TrainState

NOISY = f"{PROGRAMS}/noisy.py:Noisy"
Position = tuple[int, int]


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written afterwards."""


class NoCourier:
    """Stands for `CourierClient`: no courier runs, and the run has no artifacts."""

    def ask(self, question: Any) -> Any:
        return [] if isinstance(question, ListArtifacts) else None

    def attach(self, run_id: str) -> None:
        pass

    def restart_if_dead(self) -> None:
        pass

    def finish(self, *_: Any, **__: Any) -> bool:
        return True


class StopAt:
    """Stands for `StopSignals`: stops a training at a position, by SIGTERM or, with `kill`, SIGKILL."""

    def __init__(self, state: Any, position: Position | None, kill: bool) -> None:
        self.state, self.position, self.kill, self.received = state, position, kill, 0

    def should_checkpoint(self) -> bool:
        if self.state.position != self.position:
            return False
        if self.kill:
            raise Killed
        self.received = 15
        return True

    def checkpointed(self) -> None:
        pass

    def defer(self) -> None:
        pass


def held_run(folder: Path, setup: TrainingSetup, signals: Any = None, courier: Any = None) -> Run:
    """A run in a folder of a test's own, without a tracking server."""
    run = Run(RunDir(folder), FileLock(folder / "lock"), courier or NoCourier(), signals)
    keep(run, setup)
    return run


def scramble() -> None:
    """Changes the state of all generators, as a new process would find them."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def train_until(
    folder: Path, config: TrainConfig, stop: Position | None = None, *, kill: bool = False
) -> None:
    """Trains, from the newest checkpoint in `folder` on, to `stop` or to the end."""
    scramble()
    setup = prepare(config)
    run = held_run(folder, setup, StopAt(setup.state, stop, kill))
    restore_into(run, setup)
    run._go_live()
    try:
        train._loop(run, setup)
        run.finish()
    except Interrupted as interrupted:
        with pytest.raises(Interrupted):
            run._end_early(interrupted)
    except DivergedError as error:
        run._end_early(error)
        raise
    except Killed:
        run._checkpoints.close()
        run.journal._db.close()  # without a flush


def require_exact_resumes(
    folder: Path, config: TrainConfig, stops: Sequence[Position], kills: Sequence[bool] = (False,)
) -> None:
    """Trains in `folder / "whole"`; a training stopped or killed at each position ends as that one."""
    whole = folder / "whole"
    train_until(whole, config)
    for stop, kill in product(stops, kills):
        part = folder / f"{stop}-{kill}"
        train_until(part, config, stop, kill=kill)
        train_until(part, config)
        for kept in (history, last_checkpoint):
            found = difference(kept(part), kept(whole))
            assert found == "", f"{stop}, {kill}: {found}"


def saved_state(state: TrainState) -> dict[str, Any]:
    """What a checkpoint would hold of a training."""
    kept = {name: snapshot(target) for name, target in state.kept().items()}
    return {"position": state.position, "generators": generator_states(), **kept}


def continue_from(state: TrainState, saved: dict[str, Any]) -> None:
    """Continues a training where `saved_state` was taken."""
    for name, target in state.kept().items():
        target.load_state_dict(saved[name])
    state.position = saved["position"]
    restore_generators(saved["generators"])


def history(folder: Path) -> dict[tuple[str, int], float]:
    """All recorded points."""
    journal = Journal(RunDir(folder).journal)
    found = {
        (p.key, p.step): p.value for key in ("cost", "val_cost", "lr") for p in journal.points(key)
    }
    journal.close()
    return found


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """The newest checkpoint, whole."""
    checkpoints = RunDir(folder).checkpoints
    file = checkpoint_name(*local_positions(checkpoints)[-1])
    return load_checkpoint(checkpoints, Manifest.read(checkpoints / manifest_name(file)))


def difference(a: Any, b: Any, where: str = "") -> str:
    """The first bitwise difference of two nested values, or '' if there is none; NaN equals NaN."""
    if type(a) is not type(b):
        return f"{where}: {type(a)} and {type(b)}"
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return "" if same and bits(a) == bits(b) else f"{where}: {a} and {b}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (difference(a[k], b[k], f"{where}.{k}") for k in a)), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)} items"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (difference(x, y, f"{where}[{i}]") for i, (x, y) in pairs)), "")
    if isinstance(a, float):
        return "" if struct.pack("d", a) == struct.pack("d", b) else f"{where}: {a!r} and {b!r}"
    return "" if a == b else f"{where}: {a!r} and {b!r}"


def bits(tensor: Tensor) -> bytes:
    """A tensor's content, byte by byte."""
    return (
        tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )
