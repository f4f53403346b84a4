"""When to stop or pause: a signal, a vanished parent, or minutes since the last checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from runback.errors import Interrupted
from runback.processes import PARENT_PID

LOOK_SECONDS = 0.1


class StopSignals:
    """Watches for reasons to stop or to pause, at the price of one clock reading a batch.

    A first SIGINT, SIGTERM or SIGHUP raises `Interrupted` where it finds the main thread, except
    inside `deferred`, where it is noted for the loop. A second SIGINT ends the process at once; a
    SIGTERM after a SIGINT, as `mlflow run` sends it, does not count. Under `mlflow run`, which does
    not forward signals, the death of the parent process counts as SIGTERM.

    Args:
        notify: called once, from the signal handler, when a signal arrives.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self.signal = 0
        self._notify = notify
        self._parent = PARENT_PID if os.environ.get("MLFLOW_RUN_ID") else 0
        self._patient = False
        self._interrupts = 0
        self._next_look = 0.0
        self._seconds, self._saved = float("inf"), time.monotonic()
        self._old: dict[int, Any] = {}

    @contextmanager
    def deferred(self, minutes: float = 0.0) -> Iterator[None]:
        """Signals inside are noted, not raised; a noted one is raised at the end.

        Args:
            minutes: between checkpoints, for `due`; 0 for no limit.
        """
        self._seconds = minutes * 60 if minutes else float("inf")
        self._patient = True
        yield
        self._patient = False
        if self.signal:
            raise Interrupted("", self.signal)

    def defer(self) -> None:
        """From here on signals are only noted: the end is being told, and stays what it is."""
        self._patient = True

    def due(self) -> bool:
        """Whether to save now: something wants an end, or the last checkpoint is too old."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._parent and os.getppid() != self._parent:
                self._receive(signal.SIGTERM)
        return self.signal != 0 or now - self._saved >= self._seconds

    def saved(self) -> None:
        """A checkpoint has just been taken."""
        self._saved = time.monotonic()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(128 + number)
        self._receive(number)

    def _receive(self, number: int) -> None:
        if self.signal:
            return
        self.signal = number
        self._notify()
        if not self._patient:
            raise Interrupted("", number)

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
