"""The training process's side of the courier: starts it, asks it, and waits for it at the end.

Imports no mlflow: while torch is imported here, mlflow is imported there, on another core.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

import runback.errors
from runback.errors import EXIT_DONE, RunbackError, TrackingError
from runback.tracking import QUIET

WATCH_SECONDS = 1.0


class Desk:
    """A courier process and the pipe to it; a context manager that never leaves it behind."""

    def __init__(self) -> None:
        self._courier = _start()
        self._delivering = ""
        self._watched = time.monotonic()
        os.register_at_fork(after_in_child=self._hang_up)

    def ask(self, op: str, **args: Any) -> Any:
        """Asks the courier something and returns its answer.

        Raises:
            RunbackError: the error that answered, of its own kind.
        """
        line = self._exchange({"op": op, "args": args})
        if not line:
            raise TrackingError("the courier process ended unexpectedly; its message is above")
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(runback.errors, reply["kind"], RunbackError)
            raise kind(reply["error"])
        return reply["answer"]

    def deliver(self, run_id: str) -> None:
        """Lets the courier carry a run's journal from now on; no more questions after this."""
        self._delivering = run_id
        self._send({"op": "deliver", "run_id": run_id})

    def interrupted(self) -> None:
        """Tells the courier of a signal; safe inside a signal handler."""
        self._send({"op": "interrupted"})

    def watch(self) -> None:
        """Starts a new courier where the old one was killed; called by the loop now and then."""
        now = time.monotonic()
        if now - self._watched < WATCH_SECONDS:
            return
        self._watched = now
        if self._delivering and self._courier.poll() is not None:
            self._courier = _start()
            self.deliver(self._delivering)

    def finish(self) -> bool:
        """Ends the conversation and waits for the courier; says whether everything arrived."""
        if self._delivering and self._courier.poll() not in (None, EXIT_DONE):
            self._watched = 0.0
            self.watch()
        self._hang_up()
        return self._courier.wait() == EXIT_DONE

    def _exchange(self, message: dict[str, Any]) -> bytes:
        self._send(message)
        assert self._courier.stdout is not None
        return self._courier.stdout.readline()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._courier.stdin is not None
        with contextlib.suppress(
            BrokenPipeError, ValueError
        ):  # a dead courier is seen by its reader
            os.write(self._courier.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def _hang_up(self) -> None:
        if self._courier.stdin is not None and not self._courier.stdin.closed:
            with contextlib.suppress(OSError):
                self._courier.stdin.close()

    def __enter__(self) -> Desk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up()
        self._courier.wait()
        if self._courier.stdout is not None:
            self._courier.stdout.close()


def _start() -> subprocess.Popen[bytes]:
    """A courier in a session of its own: Ctrl-C in the terminal does not reach it."""
    return subprocess.Popen(
        [sys.executable, "-m", "runback.tracking.courier"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env={**QUIET, **os.environ},
    )
