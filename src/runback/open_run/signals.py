"""Reasons to stop or save: a signal, the exit of the parent, or the age of the last checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from runback.console.progress import say_at_once
from runback.errors import Interrupted
from runback.processes import PARENT_PID, is_interactive

CHECK_SECONDS = 0.1
_STOPPING = (
    "the training stops after this batch, and saves a checkpoint; a second Ctrl-C ends it at once"
)


class StopSignals:
    """Handles signals and decides when to checkpoint; costs one clock reading per batch.

    The first SIGINT, SIGTERM or SIGHUP raises `Interrupted` in the main thread; inside `deferred` it
    is recorded for the loop instead. A second SIGINT ends the process at once; in an interactive
    session, which may be a notebook's kernel, it raises `Interrupted`. A SIGTERM after a SIGINT, as
    sent by `mlflow run`, is ignored. `mlflow run` does not forward signals; under it, the exit of the
    parent process counts as SIGTERM.

    Args:
        notify: called once, from the signal handler, at the first signal.

    Attributes:
        received: the number of the first signal; 0 if there is none.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self.received = 0
        self._notify = notify
        self._parent = PARENT_PID if os.environ.get("MLFLOW_RUN_ID") else 0
        self._deferred = self._trains = False
        self._interrupts = 0
        self._next_check = 0.0
        self._seconds, self._saved = float("inf"), time.monotonic()
        self._old: dict[int, Any] = {}

    @contextmanager
    def deferred(self, minutes: float = 0.0) -> Iterator[None]:
        """Records signals inside the block; `should_checkpoint` reports them.

        Args:
            minutes: between checkpoints, for `should_checkpoint`; 0 for no limit.

        Raises:
            Interrupted: at the end of the block, if a signal was received.
        """
        self.defer(minutes)
        yield
        self.raise_again()

    def defer(self, minutes: float | None = None) -> None:
        """Records signals from here on, for `should_checkpoint`, or as the final status is written.

        Args:
            minutes: as of `deferred`; None changes nothing.
        """
        self._trains = minutes is not None
        if minutes is not None:
            self._seconds = minutes * 60 if minutes else float("inf")
        self._deferred = True

    def raise_again(self) -> None:
        """Ends `defer`.

        Raises:
            Interrupted: a signal was received.
        """
        self._deferred = False
        if self.received:
            raise Interrupted("", self.received)

    def should_checkpoint(self) -> bool:
        """Whether to save now: a signal was received, or the last checkpoint is too old."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            if self._parent and os.getppid() != self._parent:
                self._receive(signal.SIGTERM)
        return self.received != 0 or now - self._saved >= self._seconds

    def checkpointed(self) -> None:
        """Resets the age of the last checkpoint."""
        self._saved = time.monotonic()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and number == signal.SIGINT:
            if not is_interactive():
                os._exit(128 + number)
            raise Interrupted("", number)
        self._receive(number)

    def _receive(self, number: int) -> None:
        if self.received:
            return
        self.received = number
        self._notify()
        if not self._deferred:
            raise Interrupted("", number)
        if self._trains:
            say_at_once(f"{signal.Signals(number).name}: {_STOPPING}")

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
