"""Output on standard error: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

from tqdm import tqdm

LINES = 10


def say(text: str) -> None:
    """Prints one line on standard error; write errors are ignored."""
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(f"runback: {text}", file=sys.stderr)


class Progress:
    """The progress of a training: a bar with the remaining time, or ten lines in total."""

    def __init__(self, done: int, epochs: int) -> None:
        self._every, self._epochs = max(1, epochs // LINES), epochs
        self._bar: tqdm[NoReturn] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=epochs, initial=done, unit="epoch", mininterval=0.2)

    def update(self, epoch: int, cost: float, val_cost: float | None) -> None:
        """Shows a completed epoch."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal may be closed
                if self._bar.update():
                    self._bar.set_postfix_str(_costs(cost, val_cost), refresh=False)
        elif epoch % self._every == 0:
            say(f"epoch {epoch}/{self._epochs}  {_costs(cost, val_cost)}")

    def close(self) -> None:
        """Closes the bar, which stays on the screen."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


def _costs(cost: float, val_cost: float | None) -> str:
    val = "" if val_cost is None else f"  val_cost {val_cost:.6g}"
    return f"cost {cost:.6g}{val}"
