"""What people see on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

from tqdm import tqdm

from runback.training.loop import EpochResult

LINES = 10


def say(text: str) -> None:
    """One line on standard error; a terminal that is gone does not stop a training."""
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(f"runback: {text}", file=sys.stderr)


class Progress:
    """The progress of a training: a bar with time left, or a line each tenth of the way."""

    def __init__(self, done: int, epochs: int) -> None:
        self._every, self._epochs = max(1, epochs // LINES), epochs
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=epochs, initial=done, unit="epoch", mininterval=0.2)

    def update(self, result: EpochResult) -> None:
        """Shows a completed epoch."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                if self._bar.update():
                    self._bar.set_postfix_str(_costs(result), refresh=False)
        elif result.epoch % self._every == 0:
            say(f"epoch {result.epoch}/{self._epochs}  {_costs(result)}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


def _costs(result: EpochResult) -> str:
    val = "" if result.val_cost is None else f"  val_cost {result.val_cost:.6g}"
    return f"cost {result.cost:.6g}{val}"
