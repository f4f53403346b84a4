"""The open run: held, live, ended; what it keeps is any object with a state_dict."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from in_process import NoCourier, difference
from runback.errors import Interrupted, UsageError
from runback.open_run.checkpoints import Checkpointing
from runback.open_run.run import Run
from runback.stateful import Position
from runback.storage.checkpoints import local_positions
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, pending_run_dirs


class Signals:
    """Stands for `StopSignals`: signals and due checkpoints as a test sets them."""

    def __init__(self) -> None:
        self.received, self.due = 0, False

    def should_checkpoint(self) -> bool:
        return self.received != 0 or self.due

    def checkpointed(self) -> None:
        self.due = False

    def defer(self) -> None:
        pass


class Ended(NoCourier):
    """A courier that remembers how runs have ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def finish(self, run_id: str, status: str, error: str, leave: Any) -> bool:
        self.ends.append((status, error))
        return True


class Counter:
    """Neither a module nor an optimizer."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Parts:
    """Two modules with an optimizer each, and a counter: no training of runback's own."""

    def __init__(self, width: int = 4) -> None:
        self.first, self.second = nn.Linear(width, 2), nn.Linear(2, 1)
        self.optimizers = [optim.Adam(m.parameters()) for m in (self.first, self.second)]
        self.counter = Counter()

    def kept(self) -> dict[str, Any]:
        one, two = self.optimizers
        return {
            "first": self.first, "second": self.second, "one": one, "two": two,
            "counter": self.counter,
        }  # fmt: skip

    def step(self) -> None:
        self.second(self.first(torch.ones(3, 4))).sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.counter.count += 1

    def states(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.kept().items()}


def open_run(folder: Path, parts: Parts, courier: Any = None, signals: Any = None) -> Run:
    lock = FileLock(folder / "lock").acquire("it")
    run = Run(RunDir(folder), lock, courier or NoCourier(), signals or Signals())
    run.keep(**parts.kept())
    return run


def test_any_objects_are_kept_and_restored(tmp_path: Path) -> None:
    parts, again = Parts(), Parts()
    with open_run(tmp_path / "run", parts) as run:
        run._go_live()
        run.state["note"] = {"best": 3}
        for _ in range(3):
            parts.step()
        run.advance(Position(1), due=True)
        run.finish()
    with open_run(tmp_path / "run", again) as run:
        assert run.restore() == Position(1)
        assert run.state["note"] == {"best": 3}
    assert difference(parts.states(), again.states()) == ""


def test_a_checkpoint_is_a_copy_of_its_moment(tmp_path: Path) -> None:
    parts, again = Parts(), Parts()
    with open_run(tmp_path / "run", parts) as run:
        run._go_live()
        parts.step()
        before = {name: value.clone() for name, value in parts.first.state_dict().items()}
        run.checkpoint(Position(1))
        parts.step()
        run.finish()
    with open_run(tmp_path / "run", again) as run:
        run.restore()
    assert (parts.counter.count, again.counter.count) == (2, 1)
    assert difference(dict(again.first.state_dict()), before) == ""


def test_a_state_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = Parts()
    with open_run(tmp_path / "run", parts) as run:
        run._go_live()
        run.checkpoint(Position(1))
        run.finish()
    with open_run(tmp_path / "run", parts) as run:
        run.keep(third=Counter())
        assert run.restore() is None
    assert "incomplete training state (KeyError: 'third_state_dict')" in capsys.readouterr().err


def test_advance_saves_only_when_due(tmp_path: Path) -> None:
    signals = Signals()
    with open_run(tmp_path / "run", Parts(), signals=signals) as run:
        run._go_live()
        run.advance(Position(1))
        run.advance(Position(2), due=True)
        run.advance(Position(2, 5))
        signals.due = True
        assert run.should_advance()
        run.advance(Position(2, 7))
        run.wait()
        assert local_positions(run.folder.checkpoints) == [(2, 0), (2, 7)]
        run.finish()


def test_a_signal_saves_and_ends_the_run_killed(tmp_path: Path) -> None:
    courier, signals = Ended(), Signals()
    with (
        pytest.raises(Interrupted) as raised,
        open_run(tmp_path / "run", Parts(), courier, signals) as run,
    ):
        run._go_live()
        signals.received = 15
        run.advance(Position(0, 3))
    assert raised.value.exit_code == 143 and raised.value.run_id == "run"
    assert courier.ends == [("KILLED", "")]
    assert local_positions(tmp_path / "run" / "checkpoints") == [(0, 3)]


def test_an_exception_ends_the_run_failed_with_its_text(tmp_path: Path) -> None:
    courier = Ended()
    with (
        pytest.raises(ValueError, match="odd"),
        open_run(tmp_path / "run", Parts(), courier) as run,
    ):
        run._go_live()
        raise ValueError("odd")
    assert courier.ends == [("FAILED", "ValueError: odd")]
    assert FileLock(tmp_path / "run" / "lock").try_acquire()


def test_an_exception_before_it_is_live_ends_nothing(tmp_path: Path) -> None:
    courier = Ended()
    with pytest.raises(UsageError), open_run(tmp_path / "run", Parts(), courier):
        raise UsageError("refused")
    assert courier.ends == []
    assert FileLock(tmp_path / "run" / "lock").try_acquire()
    assert not (tmp_path / "run" / "journal.db").exists()


def test_logged_steps_are_the_way_that_a_run_has_come(tmp_path: Path) -> None:
    """Whatever the metrics are called."""
    with open_run(tmp_path / "run", Parts()) as run:
        run._go_live()
        for step in range(1, 8):
            run.log({"reward": 1.0 / step}, step=step)
        run.finish()
    with contextlib.closing(Journal(tmp_path / "run" / "journal.db")) as journal:
        assert journal.reached() == 7
        assert [point.step for point in journal.points("reward")] == list(range(1, 8))


def test_a_checkpoint_of_another_configuration_is_skipped(tmp_path: Path) -> None:
    parts = Parts()
    with open_run(tmp_path / "run", parts) as run:
        run.checkpointing = Checkpointing("one")
        run._go_live()
        run.checkpoint(Position(1))
        run.finish()
    for digest, expected in (("another", None), ("one", Position(1))):
        with open_run(tmp_path / "run", parts) as run:
            run.checkpointing = Checkpointing(digest)
            assert run.restore() == expected


def test_a_new_run_that_is_never_created_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBACK_HOME", str(tmp_path / "home"))
    courier: Any = NoCourier()
    signals: Any = Signals()
    with pytest.raises(UsageError), Run.new(courier, signals) as run:
        run.post_json("split.json", {"rows": [1, 2]})
        assert run.id == "" and not run.is_live
        assert pending_run_dirs() == [run.folder]
        raise UsageError("refused")
    assert list((tmp_path / "home").iterdir()) == []
