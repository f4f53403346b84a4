"""When the loop must pause: a signal, a vanished parent, or minutes since the last checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

LOOK_SECONDS = 0.1


class Watch:
    """Watches for reasons to pause, at the price of one clock reading a batch.

    SIGINT and SIGTERM are noted; a second SIGINT ends the process at once. Under `mlflow run`,
    which does not forward signals, the death of the parent process counts as SIGTERM.

    Args:
        minutes: between checkpoints; 0 for no limit.
        notify: called once, from the signal handler, when a signal arrives.
    """

    def __init__(self, minutes: float, notify: Callable[[], None]) -> None:
        self.signal = 0
        self._seconds = minutes * 60 if minutes else float("inf")
        self._notify = notify
        self._parent = os.getppid() if os.environ.get("MLFLOW_RUN_ID") else 0
        self._next_look = 0.0
        self._saved = time.monotonic()
        self._old: dict[int, Any] = {}

    def due(self) -> bool:
        """Whether to save now: something wants an end, or the last checkpoint is too old."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._parent and os.getppid() != self._parent and not self.signal:
                self._receive(signal.SIGTERM)
        return self.signal != 0 or now - self._saved >= self._seconds

    def saved(self) -> None:
        """A checkpoint has just been taken."""
        self._saved = time.monotonic()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            os._exit(128 + number)
        self._receive(number)

    def _receive(self, number: int) -> None:
        if not self.signal:
            self.signal = number
            self._notify()

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
