"""The loop of an own run: its place, and the safe points at which checkpoints are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from runback.console.progress import say
from runback.errors import UsageError
from runback.open_run.forking import Start, kept_start, load_start
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.own_loop.batches import OrderedBatches
from runback.own_loop.kept import Kept
from runback.own_loop.values import copied, numbers
from runback.seeding import generator_states, restore_generators, seed_generators
from runback.stateful import Position, Stateful, snapshot
from runback.tracking.messages import RunDescription
from runback.training.device import choose_device

EPOCHS, STEPS = "epochs", "steps"
# What a checkpoint has besides the kept objects.
OWN = "own"


@dataclass(frozen=True)
class Settings:
    """The settings of a loop.

    Attributes:
        every: epochs (or steps) between checkpoints.
        minutes: between checkpoints, also inside an epoch; 0 for no limit.
        seed: of the generators and of the order of batches; None to leave the generators alone.
    """

    every: int
    minutes: float
    seed: int | None


@dataclass
class Place:
    """Where a loop stands, and what was recorded since the last epoch or step.

    Attributes:
        done: completed epochs or steps.
        batch: batches taken of the current epoch.
        n_batches: of the current epoch; None before its first batch, 0 if unknown.
        data_epoch: passes over the loader that a loop over steps has completed.
        taken: batches that it has taken of the current pass.
        order_seed: of the order of batches; None until it is drawn.
        metrics: of the current epoch or step.
        state: the user's values.
    """

    done: int = 0
    batch: int = 0
    n_batches: int | None = None
    data_epoch: int = 0
    taken: int = 0
    order_seed: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def copied(self) -> dict[str, Any]:
        """A copy, as JSON values.

        Raises:
            UsageError: a value in `state` is not one of JSON.
        """
        return {**vars(self), "metrics": dict(self.metrics), "state": copied(self.state)}

    def set(self, stored: Mapping[str, Any]) -> None:
        """Takes the values of a copy; `state` stays the same object."""
        state = self.state
        vars(self).update({**stored, "metrics": dict(stored["metrics"]), "state": state})
        state.clear()
        state.update(copied(stored["state"]))


@dataclass(frozen=True)
class _Inside:
    """A checkpoint from inside an epoch, loaded again before the next batch.

    What the loop does before its first batch, such as a step of a scheduler, is done once more when
    the epoch is entered again, and must not count twice.
    """

    kept: tuple[tuple[Stateful, dict[str, Any]], ...]
    generators: dict[str, Any]
    place: dict[str, Any]


class Loop:
    """A loop over epochs or steps, from the newest checkpoint on.

    Attributes:
        kind: "epochs" or "steps"; empty before the loop begins.
        place: where it stands.
        is_requested: whether a checkpoint is due at the next safe point.
    """

    def __init__(
        self,
        run: Run,
        signals: StopSignals,
        settings: Settings,
        description: RunDescription,
        start: Start | None = None,
    ) -> None:
        self.kind = ""
        self._description, self._start = description, start
        self.place = Place(order_seed=settings.seed)
        self.is_requested = False
        self._run, self._signals, self._settings = run, signals, settings
        self._kept: dict[str, Kept] = {}
        self._is_begun = False
        self._inside: _Inside | None = None
        self._batches: OrderedBatches | None = None

    @property
    def reached(self) -> int:
        """Completed epochs or steps, with the one that is being trained."""
        return self.place.done + self._is_begun

    def keep(self, objects: Mapping[str, Stateful]) -> None:
        """Adds objects to the checkpoints; see `OwnRun.keep`.

        Raises:
            UsageError: a name is used, an object has no state, or the loop has begun.
        """
        if self.kind:
            raise UsageError("keep: name all objects before the loop begins")
        for name in objects:
            if name in self._kept:
                raise UsageError(f"keep: the name {name} is used already; choose another")
        kept = {name: Kept(name, target) for name, target in objects.items()}
        self._kept |= kept
        self._run.keep(**kept)

    def left(self, kind: str, count: int) -> Iterator[int]:
        """Yields the indices that are left of `count`; restores the run before the first.

        Raises:
            UsageError, Interrupted: as in `OwnRun.epochs`.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise UsageError(f"{kind}: {count!r} is not a number of {kind}")
        if self.kind not in ("", kind):
            raise UsageError(f"{kind}: the run has a loop over {self.kind} already")
        self._enter(kind, count)
        while self.place.done < count:
            self._begin()
            yield self.place.done
            self._complete(is_last=self.place.done + 1 == count)
        self.end()

    def end(self) -> None:
        """Completes an epoch or step that was left with `break`.

        Raises:
            Interrupted: a signal was received.
        """
        if self._is_begun:
            self._complete(is_last=True)
        self._signals.raise_again()
        self._run.wait()

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Records metrics of the current epoch or step; see `OwnRun.log`."""
        if not self.kind:
            raise UsageError("log: no epoch has begun; log_final records scores of the whole run")
        for name, value in numbers(metrics).items():
            if name in self.place.metrics:
                where = f"{self.kind[:-1]} {self.place.done}"
                raise UsageError(f"metric {name}: is recorded twice in {where}")
            self.place.metrics[name] = value

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of a loader that are left; see `OwnRun.batches`."""
        if not self.kind:
            raise UsageError("batches: no epoch has begun; read it inside the loop")
        yield from self._endless(loader) if self.kind == STEPS else self._of_epoch(loader)

    # From held to live

    def _enter(self, kind: str, count: int) -> None:
        """Restores and reopens a resumed run; a refusal changes nothing."""
        run, is_first = self._run, self.kind == ""
        is_restored = self._restore_start(kind) if run.is_live else self._restore(kind)
        if count < self.place.done:
            done = self.place.done
            raise UsageError(f"{kind}: {count} is less than the {done} that the run has trained")
        if is_first and not is_restored and kind == STEPS:
            self._seed()
        if not run.is_live:
            run.reopen({}, self._description)
            say(f"run {run.id} resumed after {kind[:-1]} {self.place.done}")
        self.kind = kind

    def _restore(self, kind: str) -> bool:
        """Loads the newest checkpoint; returns False if there is none, as nothing was trained."""
        run = self._run
        run.catch_up()
        position = run.restore()
        if position is None:
            run.require_untrained()
            assert run.record is not None
            self._start = kept_start(run) if run.record.tags.fork else None
            return self._restore_start(kind)
        stored = run.state[OWN]
        self._set_place(stored, kind)
        if position.batch:
            kept = tuple((target, snapshot(target)) for target in self._kept.values())
            self._inside = _Inside(kept, generator_states(), stored["place"])
        return True

    def _restore_start(self, kind: str) -> bool:
        """Loads the checkpoint with which a fork begins; returns False if there is none."""
        start, self._start = self._start, None
        if start is None:
            return False
        self._set_place(load_start(start, self._kept)[OWN], kind)
        if self._settings.seed is not None:
            self.place.order_seed = self._settings.seed
        say(f"run {self._run.id} is a fork of run {start.run_id} after {kind[:-1]} {start.epoch}")
        return True

    def _set_place(self, stored: Mapping[str, Any], kind: str) -> None:
        if stored["kind"] != kind:
            raise UsageError(f"{kind}: the run has a loop over {stored['kind']}")
        self.place.set(stored["place"])

    # The safe points

    def _begin(self) -> None:
        self._is_begun = True
        if self.kind == STEPS:
            self._signals.defer(self._settings.minutes)
            return
        self.place.n_batches, self.place.batch, self.place.metrics = None, 0, {}
        self._seed()

    def _complete(self, *, is_last: bool) -> None:
        if self._inside is not None:
            raise UsageError(
                f"epochs: the checkpoint is from inside epoch {self.place.done}; read its batches with "
                "batches, as before"
            )
        self._signals.defer(self._settings.minutes)
        self._is_begun = False
        self.place.done += 1
        done, metrics = self.place.done, self.place.metrics
        self.place.metrics, self.place.batch = {}, 0
        self._run.log(metrics, step=done)
        self._advance(Position(done), due=is_last or done % self._settings.every == 0)
        if self.kind == EPOCHS:
            self._signals.raise_again()

    def _advance(self, position: Position, *, due: bool = False) -> None:
        due = due or self.is_requested or self._run.should_advance()
        if due:
            self._run.state[OWN] = {"kind": self.kind, "place": self.place.copied()}
            self.is_requested = False
        self._run.advance(position, due=due)

    def _seed(self) -> None:
        if self._settings.seed is not None:
            seed_generators(self._settings.seed, self.place.done, choose_device("auto"))

    # Batches

    def _of_epoch(self, loader: Iterable[Any]) -> Iterator[Any]:
        if self.place.n_batches is not None:
            raise UsageError("batches: is used twice in an epoch; read the other loader as it is")
        ordered = self._ordered(loader)
        before = self._continue_inside()
        found = ordered.epoch(self.place.done, self.place.batch)
        if before not in (None, 0, found.n_batches):
            raise UsageError(
                f"batches: the loader has {found.n_batches} batches; when epoch {self.place.done} was "
                f"begun, it had {before}"
            )
        self.place.n_batches = found.n_batches
        self._signals.defer(self._settings.minutes)
        for batch, is_last in found.batches:
            yield batch
            self.place.batch += 1
            if not is_last:
                self._advance(Position(self.place.done, self.place.batch))

    def _continue_inside(self) -> int | None:
        """Loads the checkpoint from inside the epoch, if any; returns its number of batches."""
        inside, self._inside = self._inside, None
        if inside is None:
            return None
        for target, state in inside.kept:
            target.load_state_dict(state)
        restore_generators(inside.generators)
        self.place.set(inside.place)
        before, self.place.n_batches = self.place.n_batches, None
        say(f"epoch {self.place.done} continues after batch {self.place.batch}")
        return before

    def _endless(self, loader: Iterable[Any]) -> Iterator[Any]:
        ordered, place = self._ordered(loader), self.place
        while True:
            start = place.taken
            for batch, _ in ordered.epoch(place.data_epoch, start).batches:
                place.taken += 1
                yield batch
            if place.taken == start == 0:
                raise UsageError("batches: the loader has no batches")
            place.data_epoch, place.taken = place.data_epoch + 1, 0

    def _ordered(self, loader: Iterable[Any]) -> OrderedBatches:
        """The loader in our order; a copy of the same loader is used again."""
        if self.place.order_seed is None:
            self.place.order_seed = int(torch.empty((), dtype=torch.int64).random_().item())
        if self._batches is None or self._batches.loader is not loader:
            self._batches = OrderedBatches(loader, self.place.order_seed)
        return self._batches
