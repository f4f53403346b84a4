"""The progress of a training: a line that is drawn again on a terminal, else a line at checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runback.console.progress import drawing, tell

if TYPE_CHECKING:
    from runback.console.line import Line

# Between two drawings of the line, and between two plain lines.
DRAW_SECONDS = 0.25
PLAIN_SECONDS = 10.0
# Between two looks at what waits for delivery, and how long it has to wait to be shown.
LOOK_SECONDS = 5.0
LONG_SECONDS = 15.0
# Weights of a new val_cost in the two means whose comparison is its trend, and the least difference.
FAST, SLOW = 0.2, 0.05
LEAST_TREND = 0.001
# Of a new rate in its mean.
NEW_RATE = 0.3
NAN = float("nan")


class Waiting:
    """What waits for delivery, looked at every few seconds."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count, self._last = count, 0
        self._looked = self._moved = time.monotonic()

    def for_long(self, now: float) -> int:
        """The number of entries, if it has not become smaller for a long time; else 0."""
        if now - self._looked >= LOOK_SECONDS:
            count, self._looked = self._count(), now
            if count == 0 or count < self._last:
                self._moved = now
            self._last = count
        return self._last if self._looked - self._moved >= LONG_SECONDS else 0


class Progress:
    """The progress of a training; as a context manager it ends the line, which stays.

    Args:
        done: epochs before.
        epochs: in total.
        waiting: counts what waits for delivery; called every few seconds on a terminal.

    Attributes:
        epoch: completed epochs.
        saved: the epoch of the last checkpoint; -1 if there is none yet.
        best: the lowest val_cost.
        best_epoch: its epoch; 0 if there is none.
        rate: epochs in a second.
        waits: entries that have waited long for their delivery.
    """

    def __init__(self, done: int, epochs: int, waiting: Callable[[], int] = lambda: 0) -> None:
        self.epoch, self.epochs, self.saved = done, epochs, -1
        self.cost = self.val_cost = self.rate = NAN
        self.best, self.best_epoch = float("inf"), 0
        self.waits, self._waiting = 0, Waiting(waiting)
        self._fast = self._slow = NAN
        self._line: Line | None = None
        self._drawing = drawing()
        self._drawn, self._next, self._next_plain = (0.0, done), 0.0, 0.0

    def update(self, epoch: int, cost: float, val_cost: float | None) -> None:
        """Takes a completed epoch, and draws the line if it is time."""
        self.epoch, self.cost = epoch, cost
        if val_cost is not None:
            self.val_cost = val_cost
            if val_cost < self.best:
                self.best, self.best_epoch = val_cost, epoch
        if self._line is None:
            return
        if val_cost is not None:
            self._fast = _mixed(self._fast, val_cost, FAST)
            self._slow = _mixed(self._slow, val_cost, SLOW)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + DRAW_SECONDS
            self._draw(now)

    def checkpointed(self, epoch: int, batch: int) -> None:
        """Takes the place of a checkpoint; without a terminal, prints a line from time to time."""
        self.saved = epoch
        now = time.monotonic()
        if self._line is not None or (now < self._next_plain and epoch < self.epochs):
            return
        self._next_plain = now + PLAIN_SECONDS
        inside = f" and {batch} batches" if batch else ""
        tell(f"epoch {epoch}/{self.epochs}{inside}{self._costs()}")

    @property
    def trend(self) -> int:
        """-1 where val_cost falls, 1 where it rises, else 0."""
        difference = self._fast - self._slow
        if not abs(difference) > LEAST_TREND * abs(self._slow):
            return 0
        return -1 if difference < 0 else 1

    @property
    def seconds_left(self) -> float:
        """NaN if it is not known."""
        return (self.epochs - self.epoch) / self.rate if self.rate > 0 else NAN

    def _draw(self, now: float) -> None:
        before, epoch = self._drawn
        if now - before > DRAW_SECONDS / 2 and self.epoch > epoch:
            self.rate = _mixed(self.rate, (self.epoch - epoch) / (now - before), NEW_RATE)
            self._drawn = now, self.epoch
        self.waits = self._waiting.for_long(now)
        assert self._line is not None
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
            self._line.draw(self)

    def _costs(self) -> str:
        if self.cost != self.cost:
            return ""
        val = "" if self.val_cost != self.val_cost else f"  val_cost {self.val_cost:.6g}"
        best = f"  best {self.best:.6g} at {self.best_epoch}" if self.best_epoch else ""
        return f"  cost {self.cost:.6g}{val}{best}"

    def __enter__(self) -> Progress:
        self._line = self._drawing.__enter__()
        now = time.monotonic()
        self._drawn, self._next = (now, self.epoch), now + DRAW_SECONDS
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None and self.cost == self.cost:
            self._draw(time.monotonic())
        self._drawing.__exit__(None, None, None)


class Rows:
    """The number of rows that a command has read, on a terminal."""

    def __init__(self, line: Line | None) -> None:
        self._line, self._begun, self._next, self._rows = line, time.monotonic(), 0.0, 0

    def add(self, rows: int) -> None:
        """Takes further rows, and draws the line if it is time."""
        self._rows += rows
        now = time.monotonic()
        if self._line is None or now < self._next:
            return
        self._next = now + DRAW_SECONDS
        rate = self._rows / max(now - self._begun, 1e-9)
        with contextlib.suppress(OSError, ValueError):
            self._line.write([(f"{self._rows} rows", 3), (f"{rate:.3g} rows/s", 1)])


def _mixed(mean: float, value: float, weight: float) -> float:
    """An exponential mean with a new value; the value if there is no mean yet."""
    return value if mean != mean else mean + weight * (value - mean)
