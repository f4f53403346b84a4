"""The courier: a separate process that delivers the journals of runs to MLflow.

The training process (`client`) starts `python -m runback.tracking.courier` and sends messages to its
standard input. The courier answers questions and, between them, delivers the journals of all
attached runs. At the end of the input, when the training process has exited, it delivers the rest,
sets the final statuses, and exits with 0, or with 75 if something is undelivered.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import IO

from mlflow.exceptions import MlflowException

from runback.console.streams import ignore_errors_of_standard_error
from runback.errors import EXIT_DONE, EXIT_UNDELIVERED, RunbackError
from runback.processes import is_alive
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, run_dir
from runback.tracking.attached_run import IDLE_SECONDS, AttachedRun
from runback.tracking.find_run import record_of
from runback.tracking.handlers import Handlers
from runback.tracking.messages import (
    AttachRun,
    Delivered,
    FinishRun,
    Message,
    Question,
    SignalReceived,
    read_message,
    write_answer,
    write_error,
)
from runback.tracking.record import EndStatus

LAUNCHER_SECONDS = 30.0
POLL_SECONDS = 0.1


class Inbox:
    """Messages from the training process, read without blocking the delivery.

    Attributes:
        is_open: False after the end of the input.
    """

    def __init__(self, handle: int) -> None:
        self._handle, self._buffer = handle, b""
        self.is_open = True

    def next(self, timeout: float | None = None) -> tuple[int, Message] | None:
        """The next message and its number; None after `timeout` seconds or at the end of input."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._handle], [], [], timeout)
            if not ready:
                return None
            block = os.read(self._handle, 65_536)
            if not block:
                self.is_open = False
                return None
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return read_message(line)


class Courier:
    """Serves one training process and delivers its runs.

    Args:
        inbox: messages from the training process.
        replies: the stream of replies.
        launcher: process ID of the training process's parent, such as `mlflow run`.
    """

    def __init__(self, inbox: Inbox, replies: IO[bytes], launcher: int) -> None:
        self._inbox, self._replies, self._launcher = inbox, replies, launcher
        self._handlers = Handlers(self._attach)
        self._runs: dict[str, AttachedRun] = {}
        self._waiting: dict[str, int] = {}  # message numbers of unanswered `FinishRun`s, by run ID
        self._launch_id = os.environ.get("MLFLOW_RUN_ID", "")
        self._interrupted = False
        self._status: EndStatus | None = None  # of the run that ended last
        self._overwritten: tuple[EndStatus, EndStatus] | None = None
        self._complete = True

    def serve(self) -> int:
        """Runs until the training process has exited and its runs are delivered; the exit code."""
        while self._inbox.is_open or self._runs:
            wait = min((run.advance() for run in self._runs.values()), default=None)
            for run in [run for run in self._runs.values() if run.delivered is not None]:
                self._conclude(run)
                wait = 0.0
            self._receive(wait)
        if self._status is None:  # no training has begun
            self._end_launch_early("KILLED" if self._interrupted else "FAILED")
        if self._overwritten:
            self._keep_status(*self._overwritten)
        return EXIT_DONE if self._complete else EXIT_UNDELIVERED

    def _receive(self, wait: float | None) -> None:
        """Handles one message, if there is one within `wait` seconds."""
        if not self._inbox.is_open:
            time.sleep(min(wait or 0.0, IDLE_SECONDS))
            return
        received = self._inbox.next(wait)
        if received is not None:
            self._handle(*received)
        elif not self._inbox.is_open:
            for run in self._runs.values():
                run.abandoned = True
                run.wake()

    def _handle(self, number: int, message: Message) -> None:
        match message:
            case AttachRun():
                self._attach(run_dir(message.run_id), None)
            case SignalReceived():
                self._interrupted = True
                for run in self._runs.values():
                    run.interrupted = True
            case FinishRun():
                self._finish(number, message)
            case Question():
                self._answer(number, message)

    def _attach(self, folder: RunDir, lock: FileLock | None) -> None:
        if folder.run_id not in self._runs:
            run = self._runs[folder.run_id] = AttachedRun(folder, lock)
            run.interrupted = self._interrupted

    def _finish(self, number: int, message: FinishRun) -> None:
        """Records the end; `_conclude` answers after the delivery."""
        self._attach(run_dir(message.run_id), None)
        run = self._runs[message.run_id]
        run.ended = (message.status, message.error)
        run.wake()
        self._waiting[message.run_id] = number

    def _answer(self, number: int, question: Question[object]) -> None:
        try:
            self._send(write_answer(number, self._handlers.answer(question)))
        except RunbackError as error:
            self._send(write_error(number, error))

    def _conclude(self, run: AttachedRun) -> None:
        """Handles the end of a delivery: ends the launch run and answers the `FinishRun`."""
        del self._runs[run.folder.run_id]
        self._status, complete = run.status, bool(run.delivered)
        self._complete = self._complete and complete
        launcher_status = _launcher_status(run.status, complete)
        is_launch = self._launch_id == run.folder.run_id or self._end_launch(run.status)
        stays = is_launch and run.status != launcher_status
        if stays:
            self._overwritten = (run.status, launcher_status)
        number = self._waiting.pop(run.folder.run_id, None)
        if number is not None:
            self._send(write_answer(number, Delivered(complete, stays)))

    def _end_launch_early(self, status: EndStatus) -> None:
        if self._end_launch(status) and status != "FAILED":
            self._overwritten = (status, "FAILED")

    def _end_launch(self, status: EndStatus) -> bool:
        """Ends the run that `mlflow run` created, in case `mlflow run` is killed.

        A run in which a training has begun is not changed: its ID may be set by mistake.

        Returns:
            Whether the run was ended.
        """
        if not self._launch_id:
            return False
        with contextlib.suppress(RunbackError, MlflowException):
            client = self._handlers.client
            if record_of(client.get_run(self._launch_id)).awaits_training:
                client.set_terminated(self._launch_id, status)
                return True
        return False

    def _keep_status(self, status: EndStatus, overwritten: EndStatus) -> None:
        """Sets the status again after `mlflow run` has overwritten it.

        MLflow (3.17) intends to skip ended runs, but compares a status name with a number, so that
        every interrupted run becomes FAILED. Waits until that happens, or the launcher exits.
        """
        deadline = time.monotonic() + LAUNCHER_SECONDS
        has_exited = False
        while not has_exited and time.monotonic() < deadline:
            has_exited = not is_alive(self._launcher)
            time.sleep(POLL_SECONDS)
            with contextlib.suppress(RunbackError, MlflowException):
                info = self._handlers.client.get_run(self._launch_id).info
                if info.status == overwritten:
                    self._handlers.client.set_terminated(
                        self._launch_id, status, end_time=info.end_time
                    )
                    return

    def _send(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # the training process may have been killed
            self._replies.write(line)
            self._replies.flush()


def main() -> int:
    """Serves the training process over standard input and output; returns the exit code."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries' output must not mix with the replies
    return Courier(Inbox(0), replies, int(sys.argv[1])).serve()


def _launcher_status(status: EndStatus, complete: bool) -> EndStatus:
    """The status that `mlflow run` sets, according to the training process's exit code."""
    return "FINISHED" if status == "FINISHED" and complete else "FAILED"


if __name__ == "__main__":
    ignore_errors_of_standard_error()
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the teardown of mlflow's modules is slow
