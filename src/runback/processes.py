"""Processes of this machine: the parent of this one, and whether another is alive."""

from __future__ import annotations

import os

# Remembered when the process begins: `mlflow run` may be gone before the training begins.
PARENT_PID = os.getppid()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
