"""Processes on this machine: the parent of this process, and whether a process is alive."""

from __future__ import annotations

import os

# Read at start: `mlflow run` may exit before the training begins.
PARENT_PID = os.getppid()


def is_alive(pid: int) -> bool:
    """Whether a process with this ID exists on this machine, under any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
