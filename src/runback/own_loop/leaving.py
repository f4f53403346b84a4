"""The end of a script by an error of ours: one sentence and its exit code."""

from __future__ import annotations

import sys
from types import TracebackType

from runback.console.progress import say
from runback.errors import Interrupted, RunbackError

_before = sys.excepthook


def end_with_sentence() -> None:
    """Makes uncaught errors of ours end the script as they end the command line.

    That is done by `sys.excepthook`; other exceptions are passed on to the hook before. An
    interactive session keeps its own.
    """
    global _before
    if sys.excepthook is not _hook and not hasattr(sys, "ps1"):
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
