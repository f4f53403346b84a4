"""Opens the run of a user's loop: a new one, or the one that is resumed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from runback.errors import UsageError
from runback.open_run.checkpoints import Checkpointing
from runback.open_run.forking import Start, changes_text, find_start, keep_start
from runback.open_run.keys import earlier_run, holding_key
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.own_loop.loop import Settings
from runback.own_loop.note import post_note
from runback.own_loop.values import require_same
from runback.storage.scripts import ScriptStart, remember_start
from runback.tracking import run_tag, tags
from runback.tracking.client import CourierClient
from runback.tracking.messages import FindRun, RunDescription
from runback.tracking.record import ForkTags, RunRecord


@dataclass(frozen=True)
class Request:
    """What `runback.run` was called with, checked.

    Attributes:
        description: of a new run; a resumed one must have the same params.
        run_id: of the run to resume, or of one that a launcher has created; empty for none.
        key: of the run; empty for none.
        experiment: the name of the experiment; empty for the one of the environment.
        fork: the run from which a new one is forked; empty for none.
        at: the epoch or step at which it is; None for its newest checkpoint.
        script: how this program was started.
        register: the default name of registered models.
        checkpointing: its settings.
        loop: its settings.
    """

    description: RunDescription
    run_id: str
    key: str
    experiment: str
    fork: str
    at: int | None
    script: ScriptStart
    register: str
    checkpointing: Checkpointing
    loop: Settings


@dataclass(frozen=True)
class Opened:
    """An open run, whether it existed before, and the checkpoint with which a new fork begins."""

    run: Run
    signals: StopSignals
    is_resumed: bool
    start: Start | None = None


def open_run(request: Request, stack: ExitStack) -> Opened:
    """Creates the run, or holds the one that is resumed; `stack` closes it.

    Raises:
        UsageError: the params differ from those of the run, or there is no such run or checkpoint.
        RunHeldError: another process holds the run, or has its key.
        TrackingError: the tracking server is unreachable.
    """
    stack.enter_context(holding_key(request.key, request.experiment))
    courier = stack.enter_context(CourierClient())
    signals = stack.enter_context(StopSignals(courier.report_signal))
    parent = courier.ask(FindRun(request.fork)) if request.fork else None
    place = (
        ("", parent.experiment_id) if parent and not request.experiment else (request.experiment,)
    )
    run_id, record = earlier_run(courier, request.run_id, request.key, *place)
    if record is not None:
        require_same(record.params, request.description.params)
        _require_same_fork(record, parent, request.at)
        run = stack.enter_context(Run.hold(courier, signals, record.run_id))
        run.checkpointing = request.checkpointing
        if request.script.script:
            remember_start(run.id, request.script)
        return Opened(run, signals, is_resumed=True)
    start = _start(parent, request.at, courier, stack) if parent else None
    run = stack.enter_context(Run.new(courier, signals, run_id))
    run.checkpointing = request.checkpointing
    description, fork = request.description, None
    if parent and start:
        fork = _fork_tags(parent, start, description)
        keep_start(run, start)
        marks = {**description.tags, tags.FORK_OF: fork.run_id}
        facts: dict[str, run_tag.Entry] = {run_tag.FORK: fork.as_entry()}
        description = replace(description, tags=marks, facts=facts)
    run.create(description, *place)
    remember_start(run.id, request.script)
    post_note(run, request.script, "a training loop of its own", fork)
    return Opened(run, signals, is_resumed=False, start=start)


def _start(parent: RunRecord, at: int | None, courier: CourierClient, stack: ExitStack) -> Start:
    """The checkpoint from which a run is forked, in a folder that `stack` deletes.

    Raises:
        UsageError: the other run has no loop of its own, or no such checkpoint.
    """
    if not parent.has_own_loop:
        raise UsageError(
            f"fork: run {parent.run_id} has no loop of its own; a run of runback train is forked with: "
            f"runback fork {parent.run_id}"
        )
    folder = stack.enter_context(TemporaryDirectory(prefix="runback-"))
    return find_start(parent, at, courier, Path(folder))


def _fork_tags(parent: RunRecord, start: Start, description: RunDescription) -> ForkTags:
    changed = changes_text(parent.params, description.params)
    return ForkTags(run_id=parent.run_id, epoch=start.epoch, changed=changed)


def _require_same_fork(record: RunRecord, parent: RunRecord | None, at: int | None) -> None:
    """Checks that a run that is continued was begun as the fork that the script names.

    Raises:
        UsageError: it was not.
    """
    begun = record.tags.fork
    if parent is None:
        return
    if begun is None or begun.run_id != parent.run_id or at not in (None, begun.epoch):
        raise UsageError(
            f"fork: run {record.run_id} was not begun as this fork of run {parent.run_id}; give "
            "another key for a new run"
        )
