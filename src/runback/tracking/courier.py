"""The courier: a process of its own that opens runs and carries their journals to MLflow.

`python -m runback.tracking.courier` is started by the training process (`desk.py`) and spoken to
in JSON lines over its standard input: a few questions first (open a run, find one, fetch a file),
then `deliver`. The end of the input means that the training process is gone; the courier then
delivers the rest, sets the true status, and exits with 0, or with 75 if something is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import IO, Any

import mlflow
from mlflow import MlflowClient

from runback.config import TrainConfig
from runback.durable.home import RunFolder, run_folder
from runback.durable.journal import Journal
from runback.durable.lock import FileLock
from runback.environment import write_environment
from runback.errors import EXIT_DONE, EXIT_UNDELIVERED, RunbackError
from runback.tracking import checkpoints, runs
from runback.tracking.delivery import Delivery, describe
from runback.tracking.store import connect, seconds_from

IDLE_SECONDS = 0.25
SAY_SECONDS = 10.0


def drain_seconds() -> float:
    """How long the courier tries on after training, without any success: `RUNBACK_DRAIN_SECONDS`."""
    return seconds_from("RUNBACK_DRAIN_SECONDS", 60.0)


class Inbox:
    """Lines from the training process, read without blocking the delivery."""

    def __init__(self, handle: int) -> None:
        self._handle, self._buffer = handle, b""
        self.open = True

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message, or None after `timeout` seconds or at the end of the input."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._handle], [], [], timeout)
            if not ready:
                return None
            block = os.read(self._handle, 65_536)
            if not block:
                self.open = False
                return None
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class Questions:
    """What the training process may ask before it trains. Each answer is a JSON value."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """Connected on first use, so that a usage error never waits for a server."""
        if self._client is None:
            self._client = connect()
        return self._client

    def open(self, config: dict[str, str], facts: dict[str, Any], run_id: str | None) -> str:
        """See `runs.open_run`."""
        return runs.open_run(
            self.client, TrainConfig.from_mapping(config), runs.DataFacts(**facts), run_id
        )

    def find(self, name: str) -> dict[str, Any]:
        """See `runs.find_run`."""
        info = runs.find_run(self.client, name)
        return {**info.as_json(), "config": info.config.as_params()}

    def reopen(self, run_id: str, tags: dict[str, str]) -> None:
        """See `runs.reopen_run`."""
        runs.reopen_run(self.client, run_id, tags)

    def launch(self, launch_id: str, run_id: str, what: str) -> None:
        """See `runs.mark_launch`."""
        runs.mark_launch(self.client, launch_id, run_id, what)

    def fail(self, run_id: str, message: str) -> None:
        """See `runs.fail_run`."""
        runs.fail_run(self.client, run_id, message)

    def fetch(self, run_id: str, path: str, folder: str) -> str:
        """See `runs.download`."""
        return str(runs.download(self.client, run_id, path, Path(folder)))

    def checkpoints(self, run_id: str) -> list[str]:
        """See `checkpoints.checkpoint_files`."""
        return checkpoints.checkpoint_files(self.client, run_id)

    def adopt(self, run_id: str) -> None:
        """See `checkpoints.adopt`."""
        checkpoints.adopt(self.client, run_id)

    def uri(self) -> str:
        """Where the runs are."""
        return str(mlflow.get_tracking_uri())


def main() -> int:
    """Answers questions, then delivers; returns the exit code."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # nothing that a library prints may get between the replies
    inbox, questions = Inbox(0), Questions()
    while (message := inbox.next()) is not None:
        if message["op"] == "deliver":
            return _deliver(run_folder(message["run_id"]), questions.client, inbox)
        if message["op"] != "interrupted":
            _answer(questions, message, replies)
    return EXIT_DONE


def deliver(folder: RunFolder, client: MlflowClient, inbox: Inbox | None) -> bool:
    """Delivers a run's journal until it is complete and its training over, or nothing moves.

    Args:
        folder: of the run.
        client: of the server that has the run.
        inbox: of a live training process; None when there is none (`runback sync`).

    Returns:
        Whether everything has arrived, the status included.
    """
    with contextlib.closing(Journal(folder.journal)) as journal:
        delivery = Delivery(client, folder, journal)
        interrupted = _while_training(delivery, inbox) if inbox else False
        if journal.fact("status") is None:
            _note_sudden_end(journal, interrupted)
        status, error = journal.fact("status")
        return _drain(delivery, status, error)


def _deliver(folder: RunFolder, client: MlflowClient, inbox: Inbox) -> int:
    with FileLock(folder.courier_lock).acquire(f"the courier of run {folder.run_id}"):
        return EXIT_DONE if deliver(folder, client, inbox) else EXIT_UNDELIVERED


def _while_training(delivery: Delivery, inbox: Inbox) -> bool:
    """Delivers while the training process lives; returns whether it was interrupted on its way."""
    _send_environment(delivery)
    interrupted = False
    while inbox.open:
        arrived = delivery.step()
        wait = 0.0 if arrived else delivery.pause() if delivery.trouble else IDLE_SECONDS
        message = inbox.next(wait)
        interrupted = interrupted or (message or {}).get("op") == "interrupted"
    return interrupted


def _drain(delivery: Delivery, status: str, error: str) -> bool:
    """Delivers what is left; gives up `drain_seconds` after the last thing that arrived."""
    limit = drain_seconds()
    moved = said = time.monotonic()
    while True:
        if delivery.step():
            moved = time.monotonic()
        elif delivery.is_complete() and delivery.set_status(status, error):
            return True
        elif time.monotonic() - moved > limit:
            return False
        else:
            time.sleep(min(delivery.pause(), max(0.0, limit - (time.monotonic() - moved)) + 0.01))
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            _say_waiting(delivery, limit - (said - moved))


def _say_waiting(delivery: Delivery, left: float) -> None:
    waiting = describe(delivery.journal.waiting())
    why = f" ({delivery.trouble})" if delivery.trouble else ""
    _say(f"still to be delivered: {waiting}{why}; trying for another {left:.0f} s")


def _note_sudden_end(journal: Journal, interrupted: bool) -> None:
    """The process that trained is gone and has not said how it ended."""
    journal.set_fact("ended_ms", runs.now_ms())
    if interrupted:
        journal.set_fact("status", ["KILLED", "stopped at once by a second Ctrl-C"])
    else:
        journal.set_fact("status", ["FAILED", "the training process died without a word"])


def _send_environment(delivery: Delivery) -> None:
    """Captured here and not by the training process, which has better things to do."""
    if delivery.journal.fact("environment"):
        return
    for file in write_environment(delivery.folder.outbox / "environment", Path.cwd()):
        name = file.relative_to(delivery.folder.path)
        delivery.journal.post("artifact", file=str(name), artifact_path="environment")
    delivery.journal.set_fact("environment", True)


def _answer(questions: Questions, message: dict[str, Any], replies: IO[str]) -> None:
    try:
        method = getattr(questions, message["op"])
        reply = {"answer": method(**message.get("args", {}))}
    except RunbackError as error:
        reply = {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # reported in one sentence on the other side
        reply = {"error": f"{type(error).__name__}: {error}", "kind": "TrackingError"}
    replies.write(json.dumps(reply) + "\n")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, the delivery goes on
        os.write(2, f"runback: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
