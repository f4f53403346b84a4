"""The training process's side of the courier: starts it, asks it, and waits for it at the end.

Imports no mlflow: while torch is imported here, mlflow is imported there, on another core.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import runback.errors
from runback.errors import RunbackError, TrackingError
from runback.processes import PARENT_PID
from runback.tracking import QUIET
from runback.tracking.timeouts import connect_seconds, drain_seconds

WATCH_SECONDS = 1.0
LONGEST_WATCH_SECONDS = 60.0
LOOK_SECONDS = 0.25
LAST_COURIERS = 3


class CourierClient:
    """A courier process and the pipe to it; a context manager that never leaves it behind.

    Raises:
        ConfigError: an environment variable of ours does not hold a number of seconds.
    """

    def __init__(self) -> None:
        connect_seconds(), drain_seconds()  # refused here, and not by the courier hours later
        self._courier = _start()
        self._delivering = ""
        self._next_watch = 0.0
        self._restart_seconds = WATCH_SECONDS
        self._left = False
        _DESKS.add(self)

    def ask(self, op: str, **args: Any) -> Any:
        """Asks the courier something and returns its answer.

        Raises:
            RunbackError: the error that answered, of its own kind.
        """
        return self.asked(op, **args)()

    def asked(self, op: str, **args: Any) -> Callable[[], Any]:
        """Asks, and returns what waits for the answer: `ask` for those who have work meanwhile."""
        self._send({"op": op, "args": args})
        return self._answer

    def _answer(self) -> Any:
        assert self._courier.stdout is not None
        line = self._courier.stdout.readline()
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

    def ended(self, status: str, error: str) -> None:
        """Tells the courier how the training ended, which the journal says too if it can."""
        self._send({"op": "ended", "status": [status, error]})

    def watch(self) -> None:
        """Starts a new courier where the old one was killed; called by the loop now and then."""
        now = time.monotonic()
        if now < self._next_watch:
            return
        self._next_watch = now + WATCH_SECONDS
        if self._delivering and self._courier.poll() is not None:
            self._restart()
            # One that dies at once, whyever, must not take the training's processor.
            self._next_watch = now + self._restart_seconds
            self._restart_seconds = min(2 * self._restart_seconds, LONGEST_WATCH_SECONDS)

    def finish(self, status: str, error: str, leave: Callable[[], bool]) -> bool:
        """Tells the end, waits for the courier, and says whether everything arrived.

        Args:
            status: of the run.
            error: the reason, where it failed.
            leave: asked now and then; where it is true, the courier is left to itself.
        """
        for _ in range(LAST_COURIERS):
            self.ended(status, error)
            self._hang_up()
            if self._has_left(leave):
                return False
            assert self._courier.stdout is not None
            line = self._courier.stdout.readline()
            if line:
                last = json.loads(line)
                self._left = last["stays"]
                return bool(last["delivered"])
            self._restart()  # it was killed, before or after it was told the end
        return False

    def _has_left(self, leave: Callable[[], bool]) -> bool:
        """Waits for the courier's last word, or its death; True if `leave` came first."""
        assert self._courier.stdout is not None
        while not self._left and not select.select([self._courier.stdout], [], [], LOOK_SECONDS)[0]:
            self._left = leave()
        return self._left

    def _restart(self) -> None:
        self._close()
        self._courier = _start()
        self.deliver(self._delivering)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._courier.stdin is not None
        # A dead courier is noticed by `watch`, and by who waits for an answer.
        with contextlib.suppress(BrokenPipeError, ValueError):
            os.write(self._courier.stdin.fileno(), json.dumps(message).encode() + b"\n")

    def _hang_up(self) -> None:
        if self._courier.stdin is not None and not self._courier.stdin.closed:
            with contextlib.suppress(OSError):
                self._courier.stdin.close()

    def _close(self) -> None:
        self._hang_up()
        if self._courier.stdout is not None:
            self._courier.stdout.close()

    def __enter__(self) -> CourierClient:
        return self

    def fail_launch(self, message: str) -> None:
        """Tells the run that MLFLOW_RUN_ID names, where there is one, why it gets no training.

        `mlflow run` sets its status by our exit code; whoever else made it may not.
        """
        if launch := os.environ.get("MLFLOW_RUN_ID"):
            with contextlib.suppress(TrackingError):  # the user's mistake is the news
                self.ask("fail", run_id=launch, message=message)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up()
        if not self._left:
            # A run that was opened but never trained is put right meanwhile, if that can be.
            limit = None if self._delivering else connect_seconds()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._courier.wait(limit)
        self._close()
        _DESKS.discard(self)


def fail_launch(message: str) -> None:
    """`CourierClient.fail_launch` where no courier has been started; needs none without a run."""
    if os.environ.get("MLFLOW_RUN_ID"):
        with contextlib.suppress(RunbackError), CourierClient() as desk:
            desk.fail_launch(message)


_DESKS: weakref.WeakSet[CourierClient] = weakref.WeakSet()


def _hang_up_all() -> None:
    """In a child made by fork: the courier must see the end of its own training process."""
    for desk in list(_DESKS):
        desk._hang_up()


os.register_at_fork(after_in_child=_hang_up_all)


def _start() -> subprocess.Popen[bytes]:
    """A courier in a session of its own: Ctrl-C in the terminal does not reach it."""
    return subprocess.Popen(
        [sys.executable, "-m", "runback.tracking.courier", str(PARENT_PID)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env={**QUIET, **os.environ},
    )
