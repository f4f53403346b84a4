"""Opens the run of a user's loop: a new one, or the one that is resumed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from runback.open_run.checkpoints import Checkpointing
from runback.open_run.keys import holding_key, unfinished_run
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.own_loop.loop import Settings
from runback.own_loop.values import require_same
from runback.tracking.client import CourierClient
from runback.tracking.messages import FindRun, RunDescription


@dataclass(frozen=True)
class Request:
    """What `runback.run` was called with, checked.

    Attributes:
        description: of a new run; a resumed one must have the same params.
        run_id: of the run to resume, or of one that a launcher has created; empty for none.
        key: of the run; empty for none.
        experiment: the name of the experiment; empty for the one of the environment.
        checkpointing: its settings.
        loop: its settings.
    """

    description: RunDescription
    run_id: str
    key: str
    experiment: str
    checkpointing: Checkpointing
    loop: Settings


@dataclass(frozen=True)
class Opened:
    """An open run, and whether it existed before."""

    run: Run
    signals: StopSignals
    is_resumed: bool


def open_run(request: Request, stack: ExitStack) -> Opened:
    """Creates the run, or holds the one that is resumed; `stack` closes it.

    Raises:
        UsageError: the params differ from those of the run, or there is no such run.
        RunHeldError: another process holds the run, or has its key.
        TrackingError: the tracking server is unreachable.
    """
    stack.enter_context(holding_key(request.key, request.experiment))
    courier = stack.enter_context(CourierClient())
    signals = stack.enter_context(StopSignals(courier.report_signal))
    run_id = request.run_id or unfinished_run(courier, request.key, request.experiment)
    record = courier.ask(FindRun(run_id)) if run_id else None
    if record is not None and record.tags.is_described:
        require_same(record.params, request.description.params)
        run = stack.enter_context(Run.hold(courier, signals, record.run_id))
        run.checkpointing = request.checkpointing
        return Opened(run, signals, is_resumed=True)
    run = stack.enter_context(Run.new(courier, signals, run_id))
    run.checkpointing = request.checkpointing
    run.create(request.description, request.experiment)
    return Opened(run, signals, is_resumed=False)
