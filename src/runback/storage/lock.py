"""A lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from runback.errors import RunHeldError, UsageError

# `sync` takes a run's lock for a moment, to be sure that nobody trains.
PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class FileLock:
    """`flock` on a file, with the holder's name inside for the message to the second comer.

    flock ties the lock to the open file: it is gone when the process is, also after SIGKILL, and
    two holders in one process exclude each other. Children made by fork close their copy, so that
    a loader worker that outlives its parent by a moment does not hold the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock if it is free.

        Raises:
            UsageError: the file cannot be made there.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        _HELD.add(self)
        self._sign(handle)
        return True

    def acquire(self, what: str, patience: float = PATIENCE_SECONDS) -> FileLock:
        """Takes the lock, waiting a moment for one who only looked.

        Raises:
            RunHeldError: another process has it; the message says which.
        """
        if not self.wait(patience):
            raise RunHeldError(f"{what} is held by {self.holder()}; wait for it to end, or stop it")
        return self

    def wait(self, seconds: float) -> bool:
        """Takes the lock as soon as it is free; False if it is not within `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        self._forget()
        _HELD.discard(self)

    def holder(self) -> str:
        """The holder in words, as it wrote itself into the file."""
        try:
            who: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def _sign(self, handle: int) -> None:
        """Writes the holder's name; on a full disk the lock is held without one."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(me).encode(), 0)
        except OSError:
            return

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_HELD: set[FileLock] = set()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)
