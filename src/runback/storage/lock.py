"""An exclusive file lock that the kernel releases when its process exits."""

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

# `sync` takes a run's lock briefly to check that no process trains it.
WAIT_SECONDS = 1.0
_POLL_SECONDS = 0.02


class FileLock:
    """`flock` (by the `filelock` library) on a file that also contains the holder's name.

    The lock belongs to the open file: it ends with the process, also after SIGKILL, stays with a
    renamed file, and excludes other locks on the path within the process. Forked children do not
    inherit it. It is released when the object is deleted. File systems without `flock` are not
    supported: a soft lock can outlive its holder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._flock = filelock.UnixFileLock(
            path,
            thread_local=False,
            poll_interval=_POLL_SECONDS,
            fallback_to_soft=False,
            on_acquired=_write_holder,
        )

    def try_acquire(self) -> bool:
        """Takes the lock if it is free; returns False otherwise, also if this object holds it.

        Raises:
            UsageError: the file cannot be created or locked.
        """
        return self.wait(0.0)

    def acquire(self, what: str, seconds: float = WAIT_SECONDS) -> FileLock:
        """Takes the lock, waiting at most `seconds`.

        Raises:
            RunHeldError: another process holds it; the message names the process.
            UsageError: the file cannot be created or locked.
        """
        if not self.wait(seconds):
            raise RunHeldError(f"{what} is held by {self.holder()}; wait for it to end, or stop it")
        return self

    def wait(self, seconds: float) -> bool:
        """Takes the lock as soon as it is free; returns False if it is not within `seconds`.

        Raises:
            UsageError: the file cannot be created or locked.
        """
        if self._flock.is_locked:
            return False
        try:
            self._flock.acquire(timeout=seconds)
        except filelock.Timeout:  # a subclass of OSError
            return False
        except OSError as error:
            raise UsageError(f"{self.path} cannot be locked: {error.strerror}") from None
        return True

    def release(self) -> None:
        """Releases the lock; no effect if it is not held."""
        self._flock.release(force=True)

    def holder(self) -> str:
        """The holder's process, host and start time, as written in the file."""
        try:
            holder: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
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
    """Writes the holder to the file; skipped on a full disk."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
    except OSError:
        return
