"""The courier: a process of its own that opens runs and carries their journals to MLflow.

`python -m runback.tracking.courier` is started by the training process (`desk.py`) and spoken to
in JSON lines over its standard input: a few questions first (open a run, find one, fetch a file),
then `deliver`. The end of the input means that the training process is gone; the courier then
delivers the rest, sets the true status, and exits with 0, or with 75 if something is left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from runback.environment import write_environment
from runback.errors import EXIT_DONE, EXIT_UNDELIVERED, RunbackError
from runback.storage import lease
from runback.storage.atomic import sha256_of
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, run_dir
from runback.tracking import runs
from runback.tracking.connection import client_of, describe_error, http_settings, is_permanent
from runback.tracking.delivery import LONGEST_DELAY, Delivery, describe
from runback.tracking.handlers import Inbox, Questions, answer, send
from runback.tracking.registry import look_over_packages
from runback.tracking.timeouts import drain_seconds

IDLE_SECONDS = 0.25
FIRST_WORD_SECONDS = 1.0
SAY_SECONDS = 10.0
# A process that dies gives its lock back some milliseconds after it closes its end of the pipe.
DYING_SECONDS = 5.0
SHOWN_REFUSALS = 3
LAUNCHER_SECONDS = 30.0
LOOK_SECONDS = 0.1


def main() -> int:
    """Answers questions, then delivers; returns the exit code."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # nothing that a library prints may get between the replies
    inbox, questions = Inbox(0), Questions()
    run_id = _conversation(inbox, questions, replies)
    code = _deliver(run_dir(run_id), inbox, questions) if run_id else EXIT_DONE
    launch_id = os.environ.get("MLFLOW_RUN_ID", "")
    ours = bool(launch_id) and (launch_id == run_id or _end_launch(questions, launch_id, inbox))
    wrong = _as_launcher_sees_it(inbox, code)
    stays = ours and inbox.status != wrong
    send(replies, {"delivered": code == EXIT_DONE, "stays": stays})
    if stays:
        _keep_status(questions, launch_id, inbox.status, wrong, launcher=int(sys.argv[1]))
    return code


def _conversation(inbox: Inbox, questions: Questions, replies: IO[str]) -> str:
    """Answers until the training begins; the run to deliver, empty if none was opened."""
    while (message := inbox.next()) is not None:
        if message["op"] == "deliver":
            return str(message["run_id"])
        if message["op"] not in Inbox.NEWS:
            answer(questions, message, replies)
    return questions.opened  # where the training process died between opening and training


def deliver(folder: RunDir, journal: Journal, client: MlflowClient) -> bool:
    """Delivers the journal of a run whose training is over; says whether everything has arrived."""
    return _drain(Delivery(folder, journal, client))


def note_sudden_end(
    folder: RunDir, journal: Journal, interrupted: bool = False, patience: float = 0.0
) -> bool:
    """Notes how a training ended that has not said so itself.

    Args:
        folder: of the run.
        journal: of the run.
        interrupted: whether a signal asked for the end.
        patience: seconds to wait for the run's lock.

    Returns:
        False if it has not ended: a process holds the run.
    """
    lock = FileLock(folder.lock)
    if not lock.wait(patience):
        return False
    with lock:
        if journal.fact("status") is None:
            status = ["FAILED", "the training process died without a word"]
            if interrupted:
                status = ["KILLED", "stopped at once by a signal"]
            journal.set_facts({"ended_ms": runs.now_ms(), "status": status})
    return True


def _deliver(folder: RunDir, inbox: Inbox, questions: Questions) -> int:
    """Delivers while the training is_alive and until its end has arrived, whatever goes wrong here."""
    try:
        lock = questions.lock or _lock(folder, inbox)
        if lock is None:
            _say(f"run {folder.run_id} has another process that delivers")
            return EXIT_UNDELIVERED
        with lock:
            return EXIT_DONE if _deliver_all(folder, inbox) else EXIT_UNDELIVERED
    except Exception as error:  # a damaged journal, a full disk: the status is told anyway
        _say(f"the journal of run {folder.run_id} cannot be delivered: {describe_error(error)}")
        inbox.wait_for_end()
        _tell_status(folder.run_id, inbox)
        return EXIT_UNDELIVERED


def _lock(folder: RunDir, inbox: Inbox) -> FileLock | None:
    """The right to deliver; an earlier courier or a sync steps aside as soon as it looks up."""
    lock = FileLock(folder.courier_lock)
    while inbox.open:
        if lock.try_acquire():
            return lock
        inbox.next(IDLE_SECONDS)
    return lock if lock.wait(drain_seconds()) else None


def _deliver_all(folder: RunDir, inbox: Inbox) -> bool:
    with contextlib.closing(Journal(folder.journal)) as journal:
        delivery = Delivery(folder, journal)
        _while_training(delivery, inbox)
        if journal.fact("status") is None and inbox.ended is not None:  # its disk was full
            journal.set_fact("status", inbox.ended)
        ended = journal.fact("status") is not None
        if not ended and not note_sudden_end(folder, journal, inbox.interrupted, DYING_SECONDS):
            return False  # resumed already, by a process with a courier of its own
        return _drain(delivery)


def _while_training(delivery: Delivery, inbox: Inbox) -> None:
    """Delivers while the training process is_alive."""
    if inbox.open:
        delivery.tried(lambda: _send_environment(delivery))
        delivery.tried(look_over_packages)
    shown, leased = False, time.monotonic()
    while inbox.open:
        if time.monotonic() - leased > lease.RENEW_SECONDS:
            leased = time.monotonic()
            delivery.tag(lease.TAG, lease.lease(os.getppid()))
        shown = shown or delivery.set_running()
        arrived = shown and delivery.step()
        inbox.next(0.0 if arrived else _wait(delivery))


def _wait(delivery: Delivery) -> float:
    if delivery.hopeless:
        return LONGEST_DELAY
    return delivery.pause() if delivery.trouble else IDLE_SECONDS


def _drain(delivery: Delivery) -> bool:
    """Delivers what is left; gives up `drain_seconds` after the last thing that arrived.

    Steps aside when the run is resumed meanwhile: it has a new courier then.
    """
    words, status = _Words(delivery), None
    for left in _patiently(delivery):
        status = delivery.journal.fact("status")
        if status is None:
            return False
        if delivery.is_complete() and delivery.set_status(*status):
            return not words.refusals()
        words.waiting(left)
    _say(f"given up for now: {describe(delivery.journal.waiting())}{words.why()}")
    words.refusals()
    if status is not None:  # files may wait for a store that is away; the status need not
        delivery.set_status(*status)
    return False


def _patiently(delivery: Delivery) -> Iterator[float]:
    """Steps, and yields the seconds left for the next thing to arrive, until there are none."""
    limit = drain_seconds()
    moved = time.monotonic()
    while True:
        left = limit - (time.monotonic() - moved)
        with http_settings(TIMEOUT=str(_timeout(left))):
            if delivery.step():
                moved, left = time.monotonic(), limit
            yield left
        if delivery.hopeless or left <= 0:
            return
        if delivery.trouble:
            time.sleep(min(delivery.pause(), left))


def _timeout(left: float) -> int:
    """Seconds for one request: what users set or we did (`QUIET`), but no endless wait at the end."""
    usual = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "60"))
    return max(5, min(usual, round(left)))


class _Words:
    """What the courier says at the end of a training: what waits, for how long, and what cannot."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._next = time.monotonic() + FIRST_WORD_SECONDS

    def waiting(self, left: float) -> None:
        """Says now and then what is left, and for how long we try on."""
        if time.monotonic() < self._next or left <= 0:
            return
        self._next = time.monotonic() + SAY_SECONDS
        waiting = describe(self._delivery.journal.waiting())
        _say(f"still to be delivered: {waiting}{self.why()}; trying for another {left:.0f} s")

    def why(self) -> str:
        """The trouble in brackets."""
        return f" ({self._delivery.trouble})" if self._delivery.trouble else ""

    def refusals(self) -> list[str]:
        """Says what the server refused for good, and returns it."""
        found = self._delivery.journal.refusals()
        for reason in found[:SHOWN_REFUSALS]:
            _say(f"refused: {reason}")
        if len(found) > SHOWN_REFUSALS:
            _say(f"refused: {len(found) - SHOWN_REFUSALS} more")
        return found


def _end_launch(questions: Questions, launch_id: str, inbox: Inbox) -> bool:
    """Ends the run that `mlflow run` made, should `mlflow run` itself not live to do it.

    Only where no training has begun in it: it may have been given to us by mistake.

    Returns:
        Whether it has ended it.
    """
    with contextlib.suppress(RunbackError, MlflowException):
        if runs.awaits_training(questions.client.get_run(launch_id)):
            questions.client.set_terminated(launch_id, inbox.status)
            return True
    return False


def _as_launcher_sees_it(inbox: Inbox, code: int) -> str:
    """The status that `mlflow run` sets by the exit code of the training process."""
    return "FINISHED" if inbox.status == "FINISHED" and code == EXIT_DONE else "FAILED"


def _keep_status(questions: Questions, run_id: str, status: str, wrong: str, launcher: int) -> None:
    """Sets the true status again, once `mlflow run` has overwritten it with the wrong one.

    MLflow (3.17) means to spare a run that has ended already, but compares a name with a number,
    and so calls every interrupted run FAILED. Waits until it has, or is gone.
    """
    deadline = time.monotonic() + LAUNCHER_SECONDS
    gone = False
    while not gone and time.monotonic() < deadline:
        gone = not lease.is_alive(launcher)
        time.sleep(LOOK_SECONDS)
        with contextlib.suppress(RunbackError, MlflowException):
            info = questions.client.get_run(run_id).info
            if info.status == wrong:
                questions.client.set_terminated(run_id, status, end_time=info.end_time)
                return


def _tell_status(run_id: str, inbox: Inbox) -> None:
    """Sets the status without a journal: what the training process said last, or FAILED."""
    status, error = inbox.ended or ["FAILED", "the training process died; its journal is damaged"]
    deadline = time.monotonic() + drain_seconds()
    while True:
        try:
            return runs.end_run(client_of(), run_id, status, error, runs.now_ms())
        except Exception as failure:
            if is_permanent(failure) or time.monotonic() > deadline:
                return _say(f"the status of run {run_id} cannot be set: {describe_error(failure)}")
        time.sleep(IDLE_SECONDS)


def _send_environment(delivery: Delivery) -> bool:
    """Captured here and not by the training process, which has better things to do."""
    journal = delivery.journal
    if journal.fact("environment"):
        return True
    for file in write_environment(delivery.folder.outbox / "environment", Path.cwd()):
        name = str(file.relative_to(delivery.folder.path))
        journal.post("artifact", file=name, artifact_path="environment", sha256=sha256_of(file))
    journal.set_fact("environment", True)
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, the delivery goes on
        os.write(2, f"runback: {text}\n".encode())


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # taking down mlflow's modules in order would make the user wait
