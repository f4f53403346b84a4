"""Messages on standard error, and the line of a progress below them on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runback.console.line import Line

# To the beginning of the terminal's line, and erases it.
ERASE = "\r\x1b[2K"
_is_drawn = _is_quiet = False


def say(text: str) -> None:
    """Prints one line on standard error; write errors are ignored."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{_erasing()}runback: {text}", file=sys.stderr, flush=True)  # noqa: T201


def tell(text: str) -> None:
    """`say` for what is not needed: nothing where it `is_quiet`."""
    if not is_quiet():
        say(text)


def say_at_once(text: str) -> None:
    """`say` for signal handlers, which may have interrupted a write to standard error."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{_erasing()}runback: {text}\n".encode())


@contextmanager
def quietly(wanted: bool = True) -> Iterator[None]:
    """No progress and no information inside the block; warnings and errors are printed."""
    global _is_quiet
    before, _is_quiet = _is_quiet, wanted
    try:
        yield
    finally:
        _is_quiet = before


def is_quiet() -> bool:
    """Whether this is inside `quietly`, or RUNBACK_QUIET is set to anything but 0."""
    return _is_quiet or os.environ.get("RUNBACK_QUIET", "") not in ("", "0")


def _erasing() -> str:
    return ERASE if _is_drawn else ""


def is_on_terminal() -> bool:
    """Whether standard error is a terminal that can draw a line again."""
    with contextlib.suppress(ValueError, AttributeError):  # it is closed
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return False


@contextmanager
def drawing() -> Iterator[Line | None]:
    """A line at the bottom of the terminal; None without a terminal, or where it `is_quiet`."""
    global _is_drawn
    if is_quiet() or _is_drawn or not is_on_terminal():
        yield None
        return
    from runback.console.line import Line  # imports rich

    line, _is_drawn = Line(), True
    try:
        yield line
    finally:
        _is_drawn = False
        line.close()
