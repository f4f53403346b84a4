"""Reports an outage of the tracking server once, and its end once."""

from __future__ import annotations

import contextlib
import os
import time

from runback.console.progress import ERASE
from runback.tracking.delivery import Counts, Delivery, describe

# A shorter fault is repaired by a repeated request and not reported.
TRAINING_SECONDS = 3.0
DRAIN_SECONDS = 1.0


def say(text: str) -> None:
    """Writes a line to standard error, unbuffered: the courier exits without flushing."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        erase = ERASE if os.isatty(2) else ""  # a line that the training has drawn there
        os.write(2, f"{erase}runback: {text}\n".encode())


class Outages:
    """Observes a delivery step by step, and reports its outages."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._began: float | None = None
        self._sent = Counts(0, 0)  # before the outage
        self._is_told = False
        self._is_waited_for = False

    def observe_training(self) -> None:
        """Reports an outage during the training, and its end."""
        if self._lasts(TRAINING_SECONDS) and not self._is_told:
            self._tell("what the training records is kept, and is delivered later")

    def observe_drain(self, left: float) -> None:
        """Reports an outage after the training, with the seconds left, and its end."""
        if left <= 0 or self._is_waited_for or not self._lasts(DRAIN_SECONDS):
            return
        self._is_waited_for = True
        waiting = describe(self._delivery.journal.waiting())
        rest = f"still to be delivered: {waiting}; retrying for another {left:.0f} s"
        if self._is_told:
            say(rest)
        else:
            self._tell(rest)

    def end(self) -> None:
        """Reports the end of an outage, if one was reported."""
        if self._is_told:
            new = self._delivery.sent - self._sent
            counts = describe({"metrics": new.points, "items": new.items})
            say(f"{self._delivery.place} is available again: delivered {counts}")
        self._began, self._is_told, self._is_waited_for = None, False, False

    def untold_reason(self) -> str:
        """The last error in parentheses; empty if there is none, or if it has been reported."""
        error = self._delivery.error
        return f" ({error})" if error and not self._is_told else ""

    def _tell(self, consequence: str) -> None:
        self._is_told = True
        delivery = self._delivery
        say(f"{delivery.place} cannot be used ({delivery.error}): {consequence}")

    def _lasts(self, seconds: float) -> bool:
        """Whether an outage has lasted so long; one that has ended is reported and forgotten."""
        delivery = self._delivery
        if not delivery.error:
            if self._began is not None and (delivery.is_caught_up or not self._is_told):
                self.end()
            return False
        if self._began is None:
            self._began, self._sent = time.monotonic(), delivery.sent
        return time.monotonic() - self._began >= seconds
