"""The client of the courier in the training process: starts it, sends messages, waits for replies.

Imports neither mlflow nor torch: the courier imports mlflow while this process imports torch.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from runback.console.progress import say
from runback.errors import RunbackError, TrackingError
from runback.processes import PARENT_PID
from runback.tracking import QUIET
from runback.tracking.messages import (
    AttachRun,
    FailRun,
    FinishRun,
    Message,
    Question,
    Reply,
    SignalReceived,
    answer_of,
    read_reply,
    write_message,
)
from runback.tracking.record import EndStatus
from runback.tracking.timeouts import connect_seconds, drain_seconds

A = TypeVar("A")
CHECK_SECONDS = 1.0
LONGEST_CHECK_SECONDS = 60.0
POLL_SECONDS = 0.25
LAST_COURIERS = 3


class PendingAnswer(Generic[A]):
    """The future answer to a question."""

    def __init__(self, client: CourierClient, number: int, question: Question[A]) -> None:
        self._client, self._number, self._question = client, number, question

    def get(self) -> A:
        """Waits for the answer.

        Raises:
            RunbackError: the courier's error, in its own type.
        """
        return answer_of(self._question, self._client._reply_to(self._number))


class CourierClient:
    """A courier process and the pipe to it; as a context manager it waits for the courier's exit.

    Raises:
        ConfigError: RUNBACK_CONNECT_SECONDS or RUNBACK_DRAIN_SECONDS is not a number of seconds.
    """

    def __init__(self) -> None:
        connect_seconds(), drain_seconds()  # validated before the training, not hours later
        self._courier = _start()
        self._numbers = 0
        self._replies: dict[int, Reply] = {}
        self._buffer = b""
        self._is_sending = self._signal_waits = False
        self._attached: list[str] = []
        self._next_check = 0.0
        self._restart_seconds = CHECK_SECONDS
        self._left = False
        _CLIENTS.add(self)

    def ask(self, question: Question[A]) -> A:
        """Sends a question and waits for the answer.

        Raises:
            RunbackError: the courier's error, in its own type.
        """
        return self.send(question).get()

    def send(self, question: Question[A]) -> PendingAnswer[A]:
        """Sends a question without waiting for the answer."""
        return PendingAnswer(self, self._send(question), question)

    def attach(self, run_id: str) -> None:
        """Starts the delivery of a run's journal; a restarted courier continues it."""
        self._attached.append(run_id)
        self._send(AttachRun(run_id))

    def report_signal(self) -> None:
        """Reports a signal to the courier; safe inside a signal handler."""
        if self._is_sending:  # the signal has interrupted another message
            self._signal_waits = True
        else:
            self._send(SignalReceived())

    def restart_if_dead(self) -> None:
        """Starts a new courier if the old one was killed; called periodically by the loop."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        if self._attached and self._courier.poll() is not None:
            self._restart()
            # A courier that exits at once must not take CPU time from the training.
            self._next_check = now + self._restart_seconds
            self._restart_seconds = min(2 * self._restart_seconds, LONGEST_CHECK_SECONDS)

    def finish(self, run_id: str, status: EndStatus, error: str, leave: Callable[[], bool]) -> bool:
        """Reports the end of a run and waits for its delivery; returns whether it is complete.

        Args:
            run_id: of the run.
            status: of the run.
            error: the reason of a failure.
            leave: polled; if it returns True, the courier continues without being waited for.
        """
        question = FinishRun(run_id, status, error)
        for _ in range(LAST_COURIERS):
            number = self._send(question)
            if not self._wait_for(number, leave):
                self._left = True
                return False
            with contextlib.suppress(TrackingError):
                delivered = PendingAnswer(self, number, question).get()
                self._left = self._left or delivered.courier_stays
                return delivered.complete
            self._restart()  # it was killed, before or after it received the message
        say(f"the courier was killed; deliver the rest with: runback sync {run_id}")
        return False

    def fail_launch(self, error: str) -> None:
        """Ends the run in MLFLOW_RUN_ID, if set, as FAILED with an error.

        `mlflow run` sets the status by the exit code; other launchers may not.
        """
        if launch := os.environ.get("MLFLOW_RUN_ID"):
            with contextlib.suppress(TrackingError):  # must not hide the user's mistake
                self.ask(FailRun(launch, error))

    def _reply_to(self, number: int) -> Reply:
        while number not in self._replies:
            line = self._read_line()
            if not line:
                raise TrackingError("the courier process exited unexpectedly; its error is above")
            reply = read_reply(line)
            self._replies[reply.number] = reply
        return self._replies.pop(number)

    def _wait_for(self, number: int, leave: Callable[[], bool]) -> bool:
        """Waits for a reply or for the courier's exit; returns False if `leave` returns True."""
        assert self._courier.stdout is not None
        while number not in self._replies and b"\n" not in self._buffer:
            if select.select([self._courier.stdout], [], [], POLL_SECONDS)[0]:
                return True
            if leave():
                return False
        return True

    def _read_line(self) -> bytes:
        """A line from the courier; empty if it has exited."""
        assert self._courier.stdout is not None
        while b"\n" not in self._buffer:
            block = os.read(self._courier.stdout.fileno(), 65_536)
            if not block:
                return b""
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _restart(self) -> None:
        self._close()
        self._buffer = b""
        self._courier = _start()
        for run_id in self._attached:
            self._send(AttachRun(run_id))

    def _send(self, message: Message) -> int:
        assert self._courier.stdin is not None
        self._numbers += 1
        number, line = self._numbers, write_message(self._numbers, message)
        self._is_sending = True
        # A dead courier is detected by `restart_if_dead` and `_read_line`.
        with contextlib.suppress(BrokenPipeError, ValueError):
            while line:
                line = line[os.write(self._courier.stdin.fileno(), line) :]
        self._is_sending = False
        if self._signal_waits:
            self._signal_waits = False
            self._send(SignalReceived())
        return number

    def _close_stdin(self) -> None:
        if self._courier.stdin is not None and not self._courier.stdin.closed:
            with contextlib.suppress(OSError):
                self._courier.stdin.close()

    def _close(self) -> None:
        self._close_stdin()
        if self._courier.stdout is not None:
            self._courier.stdout.close()

    def __enter__(self) -> CourierClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_stdin()
        if not self._left:
            # The courier may still have to end a run that was created but not trained.
            limit = None if self._attached else connect_seconds()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._courier.wait(limit)
        self._close()
        _CLIENTS.discard(self)


def fail_launch(error: str) -> None:
    """`CourierClient.fail_launch` with a new courier, which is started only if MLFLOW_RUN_ID is set."""
    if os.environ.get("MLFLOW_RUN_ID"):
        with contextlib.suppress(RunbackError), CourierClient() as client:
            client.fail_launch(error)


_CLIENTS: weakref.WeakSet[CourierClient] = weakref.WeakSet()


def _close_all_stdin() -> None:
    """Runs in forked children: an inherited pipe would hide the training process's exit."""
    for client in list(_CLIENTS):
        client._close_stdin()


os.register_at_fork(after_in_child=_close_all_stdin)


def _start() -> subprocess.Popen[bytes]:
    """Starts a courier in a new session, so that Ctrl-C in the terminal does not reach it."""
    return subprocess.Popen(
        [sys.executable, "-m", "runback.tracking.courier", str(PARENT_PID)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env={**QUIET, **os.environ},
    )
