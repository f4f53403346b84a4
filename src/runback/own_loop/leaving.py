"""The end of a script by an error of ours: one sentence and its exit code; interruptions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from runback.console.progress import say
from runback.errors import Interrupted, RunbackError
from runback.processes import is_interactive

_before = sys.excepthook


def end_with_sentence() -> None:
    """Makes uncaught errors of ours end the script as they end the command line.

    That is done by `sys.excepthook`; other exceptions are passed on to the hook before. An
    interactive session keeps its own.
    """
    global _before
    if sys.excepthook is not _hook and not is_interactive():
        _before, sys.excepthook = sys.excepthook, _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, RunbackError):
        _before(kind, error, trace)
        return
    if isinstance(error, Interrupted):
        say(f"run {error.run_id} was interrupted; continue with: runback resume {error.run_id}")
    else:
        say(f"error: {error}")
    raise SystemExit(error.exit_code)


@contextmanager
def saying_how_to_continue() -> Iterator[None]:
    """Makes an interruption say how the loop of a notebook is continued, which no command can do."""
    try:
        yield
    except Interrupted as error:
        if error.run_id and is_interactive():
            error.args = (f"run {error.run_id} was interrupted; run the cell again to continue it",)
        raise
