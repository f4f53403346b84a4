"""One line at the bottom of a terminal, drawn with rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

if TYPE_CHECKING:
    from runback.console.epochs import Progress

BAR = 12
# Of a terminal that has room for the bar beside all parts.
WIDTH_WITH_BAR = 130
ARROWS = {-1: "↓", 0: "→", 1: "↑"}
LETTERS = {-1: "v", 0: "=", 1: "^"}
ALWAYS = 9

# Texts with the weight that keeps them on a line that is too short for all.
Parts = Sequence[tuple[str, int]]


class Line:
    """The last line of the terminal, which is drawn again in its place.

    It has no other state than the position of the cursor at its end, so that whatever else is
    written costs at most one drawing. The variables NO_COLOR and TERM are obeyed (rich).
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_empty = True
        self._console.show_cursor(False)

    def draw(self, progress: Progress) -> None:
        """Draws the progress of a training."""
        self.write(_parts(progress, self._is_unicode), progress.epoch / progress.epochs)

    def write(self, parts: Parts, share: float | None = None) -> None:
        """Draws the parts that fit, and on a wide terminal a bar with the share that is done."""
        width = self._console.width - 1  # a full line would begin another one
        has_bar = share is not None and width >= WIDTH_WITH_BAR
        texts = _fitting(parts, width - (BAR + 2) * has_bar)
        text = Text("  ".join(texts), no_wrap=True)
        text.stylize("bold", 0, len(texts[0]))
        if share is not None and has_bar:
            text = Text.assemble(
                text[: len(texts[0])], "  ", self._bar(share), text[len(texts[0]) :]
            )
        text.truncate(width)
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        self._console.print(text, end="")
        sys.stderr.flush()
        self._is_empty = False

    def close(self) -> None:
        """Ends the line, which stays."""
        self._console.show_cursor(True)
        if not self._is_empty:
            self._console.print()

    @property
    def _is_unicode(self) -> bool:
        return self._console.encoding.startswith("utf")

    def _bar(self, share: float) -> Text:
        done = min(BAR, int(share * BAR))
        mark = "━" if self._is_unicode else "="
        rest = "─" if self._is_unicode else "-"
        return Text.assemble((mark * done, "green"), (rest * (BAR - done), "dim"))


def _parts(progress: Progress, is_unicode: bool) -> Parts:
    """The first one is always shown; of the others those with the largest weights."""
    arrow = (ARROWS if is_unicode else LETTERS)[progress.trend]
    parts = [(f"epoch {progress.epoch}/{progress.epochs}", ALWAYS), (_cost(progress.cost), 7)]
    if progress.val_cost == progress.val_cost:
        parts.append((f"val_{_cost(progress.val_cost)} {arrow}", 6))
    if progress.best_epoch:
        parts.append((f"best {progress.best:.4g} at {progress.best_epoch}", 4))
    if progress.rate == progress.rate:
        parts += [(f"{_rate(progress.rate)}", 2), (f"{_time(progress.seconds_left)} left", 5)]
    if progress.saved >= 0:
        parts.append((f"saved {progress.saved}", 3))
    if progress.waits:
        parts.append((f"{progress.waits} entries wait for the server", 8))
    return parts


def _fitting(parts: Parts, width: int) -> list[str]:
    """The texts in their order, without those of the smallest weights if the line is too short."""
    kept = list(parts)
    while len(kept) > 1 and sum(len(text) + 2 for text, _ in kept) - 2 > width:
        kept.remove(min(kept, key=lambda part: part[1]))
    return [text for text, _ in kept]


def _cost(value: float) -> str:
    return f"cost {value:.4g}"


def _rate(rate: float) -> str:
    return f"{rate:.0f} epochs/s" if rate >= 10 else f"{rate:.2g} epochs/s"


def _time(seconds: float) -> str:
    """As 0:08, 12:34 or 1:02:03; ? if it is not known."""
    if not seconds < 1e7:
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
