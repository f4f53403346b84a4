"""An exclusive lock on a file, released by the kernel when its holder's process ends."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from runback.errors import RunHeldError, UsageError

# `sync` takes a run's lock for a moment, to be sure that nobody trains.
PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class FileLock:
    """The `filelock` library's `flock` on a file that also names its holder.

    The lock belongs to the open file: it is gone when the process is, also after SIGKILL, it stays
    with a file that is renamed, and two locks on one path exclude each other within a process.
    Children made by fork do not inherit it. It is released with its object, so its holder keeps
    the object. There is no fallback where a file system has no
    `flock`: a lock that outlives its holder, or that two can hold, is of no use here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._flock = filelock.UnixFileLock(
            path,
            thread_local=False,
            poll_interval=_LOOK_SECONDS,
            fallback_to_soft=False,
            on_acquired=_write_holder,
        )

    def try_acquire(self) -> bool:
        """Takes the lock if it is free; False if it is not, also where this object holds it.

        Raises:
            UsageError: the file cannot be made or locked there.
        """
        return self.wait(0.0)

    def acquire(self, what: str, patience: float = PATIENCE_SECONDS) -> FileLock:
        """Takes the lock, waiting a moment for one who only looked.

        Raises:
            RunHeldError: another process has it; the message says which.
            UsageError: the file cannot be made or locked there.
        """
        if not self.wait(patience):
            raise RunHeldError(f"{what} is held by {self.holder()}; wait for it to end, or stop it")
        return self

    def wait(self, seconds: float) -> bool:
        """Takes the lock as soon as it is free; False if it is not within `seconds`.

        Raises:
            UsageError: the file cannot be made or locked there.
        """
        if self._flock.is_locked:
            return False
        try:
            self._flock.acquire(timeout=seconds)
        except filelock.Timeout:  # an OSError, too
            return False
        except OSError as error:
            raise UsageError(f"{self.path} cannot be locked: {error.strerror}") from None
        return True

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        self._flock.release(force=True)

    def holder(self) -> str:
        """The holder in words, as it wrote itself into the file."""
        try:
            who: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _write_holder(file: int) -> None:
    """Writes the holder's name; on a full disk the lock is held without one."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(me).encode(), 0)
    except OSError:
        return
