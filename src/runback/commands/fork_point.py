"""The point at which a fork begins: what it takes over, and how that is recorded with the run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from runback.commands.recorded import require_fingerprint
from runback.console.progress import tell
from runback.decoding import decode
from runback.errors import ConfigError, TrackingError, UsageError
from runback.open_run.forking import Start, keep_start, kept_start, load_start
from runback.open_run.run import Run
from runback.stateful import Position
from runback.tracking.record import ForkTags, RunRecord
from runback.training.carrying import BEST, OPTIMIZER, SCHEDULER, WEIGHTS, objects_kept
from runback.training.setup import TrainingSetup

# In the state of the run, and so in its checkpoints.
FORK = "fork"


@dataclass(frozen=True)
class ForkPoint:
    """Where a fork begins.

    Attributes:
        start: the checkpoint.
        kept: names of what is taken over, of `training.carrying`.
        changed: the options that the fork has changed, as text.
        record: of the run that is forked; None if its rows are known to be the same.
        split_sha256: of its rows, likewise.
    """

    start: Start
    kept: tuple[str, ...]
    changed: str
    record: RunRecord | None = None
    split_sha256: str = ""

    @property
    def tags(self) -> ForkTags:
        """The point as tags."""
        run_id, epoch = self.start.run_id, self.start.epoch
        return ForkTags(run_id=run_id, epoch=epoch, kept=self.kept, changed=self.changed)


def begin_fork(run: Run, setup: TrainingSetup, point: ForkPoint) -> None:
    """Loads the checkpoint into a new training, and adds it to the files of the new run.

    Raises:
        DataError: the table has another content.
        UsageError: the rows of the split would be others, or no epoch is left to train.
        ModelError, CheckpointError: the checkpoint does not fit.
    """
    if point.record is not None:
        require_fingerprint(setup.table.fingerprint, point.record, setup.config.data)
    if point.split_sha256 not in ("", setup.split.digest):
        raise UsageError(
            f"option seed: run {point.start.run_id} has drawn its split with another one, and the "
            "fork would test on rows that it was trained on; leave seed as it is"
        )
    _take_over(run, setup, point)
    if setup.is_done():
        raise ConfigError(
            f"option patience: {setup.config.patience} epochs without a better val_cost have passed "
            f"at epoch {setup.state.epoch}; give a larger one, 0, or an earlier epoch with --at"
        )
    keep_start(run, point.start)


def begin_again(run: Run, setup: TrainingSetup) -> None:
    """Loads the checkpoint of a fork that is resumed without one of its own.

    Raises:
        TrackingError, CheckpointError, ModelError: it is missing, damaged, or does not fit.
    """
    assert run.record is not None and run.record.tags.fork is not None
    fork = run.record.tags.fork
    point = ForkPoint(kept_start(run), fork.kept, fork.changed)
    _take_over(run, setup, point)


def _take_over(run: Run, setup: TrainingSetup, point: ForkPoint) -> None:
    state, start = setup.state, point.start
    values = load_start(start, objects_kept(state, set(point.kept)))
    state.position, state.cost = Position(start.epoch), float(values["cost"])
    run.state["cost"] = state.cost
    run.state[FORK] = json.dumps([start.run_id, point.tags.as_entry()])


def fork_of(run: Run) -> ForkTags | None:
    """Where a training has begun, from its state; None if it is not a fork."""
    try:
        run_id, entry = decode(json.loads, str(run.state.get(FORK, '["", {}]')))
        return ForkTags.parse(str(run_id), entry)
    except (ValueError, TypeError, TrackingError):  # a damaged value in a checkpoint
        return None


def say_taken_over(run: Run, setup: TrainingSetup, point: ForkPoint) -> None:
    """Says what a fork has taken over, and what not."""
    best = setup.state.best
    parts = {
        WEIGHTS: "weights",
        OPTIMIZER: f"the state of the optimizer {setup.config.optimizer}",
        SCHEDULER: f"the schedule {setup.config.scheduler}",
        BEST: "the best epoch so far" + (f" ({best.epoch})" if best else ""),
    }
    has_none = {SCHEDULER: setup.config.scheduler == "none", BEST: setup.validation is None}
    parts = {name: text for name, text in parts.items() if not has_none.get(name)}
    taken = [text for name, text in parts.items() if name in point.kept]
    left = [text for name, text in parts.items() if name not in point.kept]
    tell(f"run {run.id} is a fork of run {point.start.run_id} after epoch {point.start.epoch}")
    tell(f"taken over: {', '.join([*taken, 'generators'])}" + _begun(left))
    if point.changed:
        tell(f"changed: {point.changed}")


def _begun(left: list[str]) -> str:
    return f"; begun anew: {', '.join(left)}" if left else ""
