"""The courier's end of the pipe: what the training process says, and what it may ask.

One JSON object a line each way: `{"op": ..., "args": ...}` there, and for a question an `answer` or
an `error` back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
from pathlib import Path
from typing import IO, Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from runback.config import TrainConfig
from runback.errors import RunbackError, TrackingError
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, require_home, run_dir
from runback.tracking import points, runs
from runback.tracking.connection import connect, describe_error, place_of
from runback.tracking.create_run import new_run


class Inbox:
    """Lines from the training process, read without blocking the delivery.

    Attributes:
        open: whether the training process is at the other end.
        interrupted: whether it has received a signal.
        ended: the status and error that it ended with; None before.
    """

    NEWS = ("interrupted", "ended")

    def __init__(self, handle: int) -> None:
        self._handle, self._buffer = handle, b""
        self.open, self.interrupted = True, False
        self.ended: list[str] | None = None

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
        self._note(message)
        return message

    @property
    def status(self) -> str:
        """How the training ended, as far as is known here."""
        if self.ended is not None:
            return self.ended[0]
        return "KILLED" if self.interrupted else "FAILED"

    def wait_for_end(self) -> None:
        """Reads until the training process is gone."""
        while self.open:
            self.next()

    def _note(self, message: dict[str, Any]) -> None:
        self.interrupted = self.interrupted or message["op"] == "interrupted"
        if message["op"] == "ended":
            self.ended = message["status"]


class Questions:
    """What the training process may ask before it trains. Each answer is a JSON value."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self.opened = ""  # the run that is RUNNING since
        self.lock: FileLock | None = None

    @property
    def client(self) -> MlflowClient:
        """Connected on first use, so that a usage error never waits for a server."""
        if self._client is None:
            self._client = connect()
        return self._client

    def open(self, config: dict[str, str], facts: dict[str, Any], run_id: str | None) -> str:
        """Creates a run, or takes over the one that `mlflow run` made; returns its ID.

        From then on a journal says where it is, so that it cannot be left RUNNING.
        """
        require_home()
        parsed = TrainConfig.from_mapping(config)
        if run_id:
            runs.check_adoptable(self.client, parsed, run_id)
        with contextlib.nullcontext(run_id) if run_id else new_run(self.client) as opened:
            self.opened = opened
            folder = run_dir(opened)
            self.lock = FileLock(folder.courier_lock).acquire(f"the courier of run {opened}")
            _note_beginning(folder)
        try:
            runs.describe_run(self.client, self.opened, parsed, runs.DataFacts(**facts))
        except TrackingError as error:
            self._take_back(folder, str(error), made=not run_id)
            raise
        return folder.run_id

    def _take_back(self, folder: RunDir, error: str, *, made: bool) -> None:
        """Leaves nothing half-made: no run, or where that fails a FAILED one."""
        try:
            if made:
                self.client.delete_run(folder.run_id)
                shutil.rmtree(folder.path)
                self.opened = ""
        except (MlflowException, OSError):
            made = False
        if not made:
            _note_end(folder, ["FAILED", error])

    def find(self, name: str) -> dict[str, Any]:
        """See `runs.find_run`; what can be changed no more is refused."""
        info = runs.find_run(self.client, name)
        runs.require_active(info)
        return {**info.as_json(), "config": info.config.as_params()}

    def reopen(self, run_id: str, tags: dict[str, str]) -> None:
        """See `runs.reopen_run`; the journal first forgets how the run ended before."""
        _note_beginning(run_dir(run_id))
        self.opened = run_id
        runs.reopen_run(self.client, run_id, tags)

    def launch(self, launch_id: str, run_id: str, what: str) -> None:
        """See `runs.mark_launch`."""
        runs.mark_launch(self.client, launch_id, run_id, what)

    def fail(self, run_id: str, message: str) -> None:
        """See `runs.fail_run`; only where no training has begun: the ID may be given by mistake."""
        if runs.awaits_training(self.client.get_run(run_id)):
            runs.fail_run(self.client, run_id, message)

    def fetch(self, run_id: str, path: str, folder: str) -> str:
        """See `runs.download`."""
        return str(runs.download(self.client, run_id, path, Path(folder)))

    def checkpoints(self, run_id: str) -> list[str]:
        """See `points.checkpoint_files`."""
        return points.checkpoint_files(self.client, run_id)

    def adopt(self, run_id: str) -> None:
        """See `points.adopt`."""
        points.adopt(self.client, run_id)


def answer(questions: Questions, message: dict[str, Any], replies: IO[str]) -> None:
    """Answers a question, in any case."""
    try:
        method = getattr(questions, message["op"])
        reply = {"answer": method(**message.get("args", {}))}
    except RunbackError as error:
        reply = {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # reported in one sentence on the other side
        reply = {
            "error": f"{type(error).__name__}: {describe_error(error)}",
            "kind": "TrackingError",
        }
    send(replies, reply)


def send(replies: IO[str], reply: dict[str, Any]) -> None:
    """Writes a line to the training process."""
    with contextlib.suppress(OSError):  # who asked may be dead; the end of the input will tell
        replies.write(json.dumps(reply) + "\n")


def _note_beginning(folder: RunDir) -> None:
    """Where the run is, and that its end is open: what a later `runback sync` must know."""
    with contextlib.closing(Journal(folder.journal)) as journal:
        place = place_of(mlflow.get_tracking_uri())
        journal.set_facts({"tracking_uri": place, "status": None, "status_delivered": None})
        journal.flush(durable=True)


def _note_end(folder: RunDir, status: list[str]) -> None:
    with contextlib.closing(Journal(folder.journal)) as journal:
        journal.set_facts({"ended_ms": runs.now_ms(), "status": status})
