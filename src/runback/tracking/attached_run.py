"""The delivery of one run: its journal during the training, then the rest, then its status."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import cast

from mlflow import MlflowClient

from runback.environment import write_environment
from runback.storage import lease
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir
from runback.tracking import tags
from runback.tracking.connection import client_of, describe_error, http_settings, is_permanent
from runback.tracking.delivery import LONGEST_DELAY, Delivery, describe
from runback.tracking.outages import Outages, say
from runback.tracking.record import EndStatus
from runback.tracking.status import end_run, now_ms
from runback.tracking.timeouts import drain_seconds

IDLE_SECONDS = 0.25
# A killed process releases its lock some milliseconds after it closes its end of the pipe.
EXIT_SECONDS = 5.0
SHOWN_REFUSALS = 3
VIEW_SECONDS = "5"  # for one request, after everything else is delivered

# Yields the seconds until the next step; returns whether everything was delivered.
DeliverySteps = Generator[float, None, bool]


class AttachedRun:
    """A run whose journal the courier delivers in steps, interleaved with other runs.

    Args:
        folder: of the run.
        lock: the run's courier lock, if the courier already holds it.

    Attributes:
        ended: the status and error reported by the training process; None before.
        abandoned: whether the training process has exited.
        interrupted: whether the training process has received a signal.
        delivered: whether everything was delivered; None during the delivery.
    """

    def __init__(self, folder: RunDir, lock: FileLock | None) -> None:
        self.folder = folder
        self.ended: tuple[EndStatus, str] | None = None
        self.abandoned, self.interrupted = False, False
        self.delivered: bool | None = None
        self._lock = lock
        self._steps = self._deliver()
        self._next = 0.0

    @property
    def status(self) -> EndStatus:
        """The reported status; without one, KILLED after a signal, else FAILED."""
        if self.ended is not None:
            return self.ended[0]
        return "KILLED" if self.interrupted else "FAILED"

    @property
    def is_over(self) -> bool:
        """Whether the training has ended, with or without a reported status."""
        return self.ended is not None or self.abandoned

    def wake(self) -> None:
        """Makes the next step due now."""
        self._next = 0.0

    def advance(self) -> float:
        """Runs the next step if it is due; returns the seconds until the following one."""
        wait = self._next - time.monotonic()
        if wait > 0:
            return wait
        try:
            wait = next(self._steps)
        except StopIteration as stop:
            self.delivered, wait = bool(stop.value), 0.0
        self._next = time.monotonic() + wait
        return wait

    def _deliver(self) -> DeliverySteps:
        """Delivers the journal and the status; if the journal fails, the status alone."""
        try:
            lock = yield from self._acquire()
            if lock is None:
                say(f"run {self.folder.run_id} is delivered by another process")
                return False
            with lock, contextlib.closing(Journal(self.folder.journal)) as journal:
                return (yield from self._deliver_all(Delivery(self.folder, journal)))
        except Exception as error:  # such as a damaged journal or a full disk
            say(
                f"the journal of run {self.folder.run_id} cannot be delivered: {describe_error(error)}"
            )
        while not self.is_over:
            yield IDLE_SECONDS
        yield from self._send_status()
        return False

    def _acquire(self) -> Generator[float, None, FileLock | None]:
        """Waits for the courier lock; None if another process holds it after the training ended."""
        lock = self._lock or FileLock(self.folder.courier_lock)
        deadline = float("inf")
        while self._lock is None and not lock.try_acquire():
            if self.is_over:
                deadline = min(deadline, time.monotonic() + drain_seconds())
            if time.monotonic() >= deadline:
                return None
            yield IDLE_SECONDS
        return lock

    def _deliver_all(self, delivery: Delivery) -> DeliverySteps:
        journal, outages = delivery.journal, Outages(delivery)
        yield from self._while_training(delivery, outages)
        if self.ended is not None and journal.fact("status") is None:  # its disk was full
            journal.set_fact("status", list(self.ended))
        if not record_unreported_end(self.folder, journal, self.interrupted, EXIT_SECONDS):
            return False  # already resumed by a process with another courier
        return (yield from drain(delivery, outages))

    def _while_training(self, delivery: Delivery, outages: Outages) -> Generator[float]:
        """Delivers while the training process runs."""
        if not self.is_over:
            delivery.attempt(lambda: _send_environment(delivery))
            delivery.show()
            delivery.attempt(delivery.prepare)
        shown, leased = False, time.monotonic()
        while not self.is_over:
            if time.monotonic() - leased > lease.RENEW_SECONDS:
                leased = time.monotonic()
                delivery.tag(tags.LEASE, lease.lease(os.getppid()))
            shown = shown or delivery.set_running()
            arrived = shown and delivery.step()
            outages.observe_training()
            yield 0.0 if arrived else _pause(delivery)

    def _send_status(self) -> Generator[float]:
        """Sets the status without the journal: the reported one, or FAILED."""
        unreported = (
            "the training process exited without reporting a status; its journal is damaged"
        )
        status, error = self.ended or ("FAILED", unreported)
        run_id, deadline = self.folder.run_id, time.monotonic() + drain_seconds()
        while True:
            try:
                return end_run(client_of(), run_id, status, error, now_ms())
            except Exception as failure:
                if is_permanent(failure) or time.monotonic() > deadline:
                    return say(
                        f"the status of run {run_id} cannot be set: {describe_error(failure)}"
                    )
            yield IDLE_SECONDS


def deliver(folder: RunDir, journal: Journal, client: MlflowClient) -> bool:
    """Delivers the journal of an ended run; returns whether everything was delivered."""
    delivery = Delivery(folder, journal, client)
    steps = drain(delivery, Outages(delivery))
    while True:
        try:
            time.sleep(next(steps))
        except StopIteration as stop:
            return bool(stop.value)


def record_unreported_end(
    folder: RunDir, journal: Journal, interrupted: bool = False, lock_seconds: float = 0.0
) -> bool:
    """Records a final status for a training process that exited without reporting one.

    Args:
        folder: of the run.
        journal: of the run.
        interrupted: whether the process received a signal.
        lock_seconds: to wait for the run's lock.

    Returns:
        False if the training has not ended: a process holds the run.
    """
    if journal.fact("status") is not None:
        return True
    lock = FileLock(folder.lock)
    if not lock.wait(lock_seconds):
        return False
    with lock:
        if journal.fact("status") is None:
            status = ["FAILED", "the training process exited without reporting a status"]
            if interrupted:
                status = ["KILLED", "killed by a signal"]
            journal.set_facts({"ended_ms": now_ms(), "status": status, "is_assumed": True})
    return True


def drain(delivery: Delivery, outages: Outages) -> DeliverySteps:
    """Delivers the rest and the status; stops `drain_seconds` after the last success.

    Returns False at once if the run is resumed meanwhile: it then has another courier.
    """
    limit, is_whole = drain_seconds(), False
    last_success = time.monotonic()
    while True:
        left = limit - (time.monotonic() - last_success)
        with http_settings(TIMEOUT=str(_timeout(left))):
            if delivery.step():
                last_success, left = time.monotonic(), limit
            status = _status_of(delivery.journal)
            if status is None:
                return False
            is_whole = _is_whole(delivery, *status)
        if is_whole:
            outages.end()
            with http_settings(TIMEOUT=VIEW_SECONDS):
                delivery.show()
            break
        outages.observe_drain(left)
        if delivery.has_permanent_error or left <= 0:
            delivery.set_status(*status)  # even if files are undelivered
            break
        yield min(delivery.pause(), left) if delivery.error else 0.0
    reason = outages.untold_reason()
    is_delivered = is_whole and delivery.is_delivered(*status)
    if not is_delivered:
        _report_undelivered(delivery, reason)
    return is_delivered


def _is_whole(delivery: Delivery, status: EndStatus, error: str) -> bool:
    """Whether everything is on the server, including the status, and nothing is there in vain."""
    if not (delivery.is_complete() and delivery.audit()):
        return False
    if not delivery.set_status(status, error):
        return False
    return delivery.tidy() or delivery.has_permanent_error  # a server may forbid deletions


def _status_of(journal: Journal) -> tuple[EndStatus, str] | None:
    status = journal.fact("status")
    return None if status is None else (cast(EndStatus, status[0]), str(status[1]))


def _pause(delivery: Delivery) -> float:
    if delivery.has_permanent_error:
        return LONGEST_DELAY
    return delivery.pause() if delivery.error else IDLE_SECONDS


def _timeout(left: float) -> int:
    """Seconds for one request: MLFLOW_HTTP_REQUEST_TIMEOUT, at most the time left, at least 5."""
    usual = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "60"))
    return max(5, min(usual, round(left)))


def _send_environment(delivery: Delivery) -> bool:
    """Records the environment in the courier, to save time in the training process."""
    journal = delivery.journal
    if journal.fact("environment"):
        return True
    for file in write_environment(delivery.folder.outbox / "environment", Path.cwd()):
        journal.post_file(delivery.folder.path, file, "environment")
    journal.set_fact("environment", True)
    return True


def _report_undelivered(delivery: Delivery, reason: str) -> None:
    """Prints the reasons of refused entries, what is undelivered, and how to deliver it."""
    reasons = delivery.journal.refusals()
    for text in reasons[:SHOWN_REFUSALS]:
        say(f"refused: {text}")
    if len(reasons) > SHOWN_REFUSALS:
        say(f"refused: {len(reasons) - SHOWN_REFUSALS} more")
    waiting = describe(delivery.journal.waiting())
    say(
        f"not delivered: {waiting}{reason}; "
        f"deliver the rest with: runback sync {delivery.folder.run_id}"
    )
