"""Processes on this machine: how this one was started, and whether a process is alive."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Read at start: `mlflow run` may exit before the training begins.
PARENT_PID = os.getppid()


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted
        return os.sep


# Read at start, too: a program may change it.
FOLDER = _folder()


def is_interactive() -> bool:
    """Whether this is an interactive session: a notebook's kernel, IPython or Python's prompt."""
    return hasattr(sys, "ps1")


def is_alive(pid: int) -> bool:
    """Whether a process with this ID exists on this machine, under any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
