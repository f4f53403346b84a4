"""Holds the run of a framework's training: a new one, or the one that is resumed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from runback.open_run.keys import earlier_run, holding_key
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.own_loop.opening import Opened
from runback.tracking.client import CourierClient
from runback.tracking.messages import RunDescription


@dataclass(frozen=True)
class Request:
    """Which run.

    Attributes:
        description: of a new run.
        run_id: of the run to resume, or of one that a launcher has created; empty for none.
        key: of the run; empty for none.
        experiment: the name of the experiment; empty for the one of the environment.
    """

    description: RunDescription
    run_id: str
    key: str
    experiment: str


def held_run(request: Request, stack: ExitStack) -> Opened:
    """Holds a new run, which is not created yet, or the one that is resumed; `stack` closes it.

    Its signals are not handled yet.

    Raises:
        UsageError: there is no such run.
        RunHeldError: another process holds the run, or has its key.
        TrackingError: the tracking server is unreachable.
    """
    stack.enter_context(holding_key(request.key, request.experiment))
    courier = stack.enter_context(CourierClient())
    signals = StopSignals(courier.report_signal)
    run_id, record = earlier_run(courier, request.run_id, request.key, request.experiment)
    if record is not None:
        run = stack.enter_context(Run.hold(courier, signals, record.run_id))
        return Opened(run, signals, is_resumed=True)
    run = stack.enter_context(Run.new(courier, signals, run_id))
    return Opened(run, signals, is_resumed=False)
