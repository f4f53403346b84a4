"""The jobs behind the commands, each readable from top to bottom."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runback.config import TrainConfig, parse
from runback.durable.home import RunFolder, run_folder
from runback.durable.journal import Point
from runback.durable.lock import FileLock
from runback.errors import ConfigError, DataError, DivergedError, Interrupted, RunbackError
from runback.finishing import finish
from runback.models.own import copy_sources, is_own
from runback.preparation import Work, prepare
from runback.progress import Progress, say
from runback.recording import Recorder
from runback.restoring import restore
from runback.signals import Watch
from runback.tracking.desk import Desk
from runback.training.loop import EpochResult, run_epochs

# Resuming with another value of any other option would be another training, not this one continued.
CHANGEABLE = ("epochs", "device", "data")


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the run's ID, and whether everything has been delivered."""

    run_id: str
    delivered: bool


def train(config: TrainConfig) -> str:
    """Trains a new run, or the one that MLFLOW_RUN_ID names; returns its ID.

    Raises:
        UsageError: the configuration, the table or the module cannot be used; no run is made.
        TrackingError: the tracking server is not there; no run is made.
        DivergedError: the cost is no longer finite; the run is FAILED, its checkpoints stay.
        Interrupted: SIGINT or SIGTERM; the run is KILLED, and resumable by its ID.
    """
    return run_training(config).run_id


def run_training(config: TrainConfig) -> Outcome:
    """`train`, with the news whether everything has been delivered."""
    launch = os.environ.get("MLFLOW_RUN_ID") or None
    with Desk() as desk:
        try:
            work = prepare(config)
        except RunbackError as error:
            if launch:
                desk.ask("fail", run_id=launch, message=str(error))
            raise
        run_id = desk.ask("open", config=config.as_params(), facts=work.facts(), run_id=launch)
        folder = run_folder(run_id)
        with FileLock(folder.lock).acquire(f"run {run_id}"):
            recorder = Recorder(folder, config, desk)
            _post_setup(recorder, work)
            say(f"run {run_id}: {_summary(work)}")
            return _train_to_end(recorder, work)


def resume(run: str, **changes: Any) -> str:
    """Continues a run in place, from its newest good checkpoint; returns its ID.

    Args:
        run: in any form that names a run.
        changes: `epochs` to train to, another `device`, or where the `data` lie now.

    Raises:
        UsageError: no such run, an option that may not change, or data that have changed.
        RunHeldError: another process holds the run.
        DivergedError, Interrupted, TrackingError: as in `train`.
    """
    return run_resume(run, changes).run_id


def run_resume(run: str, changes: dict[str, Any]) -> Outcome:
    """`resume`, with the news whether everything has been delivered."""
    launch = os.environ.get("MLFLOW_RUN_ID") or ""
    with Desk() as desk:
        info = desk.ask("find", name=run or launch)
        run_id, tags = info["run_id"], info["tags"]
        if launch and launch != run_id:
            desk.ask("launch", launch_id=launch, run_id=run_id, what="resume")
        config = changed(TrainConfig.from_mapping(info["config"]), changes)
        folder = run_folder(run_id)
        with FileLock(folder.lock).acquire(f"run {run_id}"):
            work = prepare(with_data(config, tags, changes), _own_source(config, folder, desk))
            require_fingerprint(work.table.fingerprint, tags, config.data)
            found = restore(work, folder, desk)
            recorder = Recorder(folder, config, desk)
            if found is None:
                say(f"run {run_id} has no good checkpoint: it is trained from epoch 0")
            elif found.remote:
                points = desk.ask("history", run_id=run_id, after=work.state.epoch)
                recorder.journal.adopt(Point(*point) for point in points)
            desk.ask("reopen", run_id=run_id, changed={k: str(v) for k, v in changes.items()})
            say(f"run {run_id} resumed after epoch {work.state.epoch}: {_summary(work)}")
            return _train_to_end(recorder, work)


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The configuration of a resumed run.

    Raises:
        ConfigError: an option that a resume may not change, or a value that does not fit.
    """
    for name in changes:
        if name not in CHANGEABLE:
            raise ConfigError(
                f"option {name}: cannot change on resume, as it would break exactness; "
                f"only {', '.join(CHANGEABLE)} can"
            )
    return dataclasses.replace(
        config, **{name: parse(name, value) for name, value in changes.items()}
    )


def with_data(config: TrainConfig, tags: dict[str, str], changes: dict[str, Any]) -> TrainConfig:
    """The configuration with the table where the run read it, unless told where it lies now."""
    recorded = tags.get("runback.data_path", "")
    if "data" in changes or not Path(recorded.rpartition(":")[0] or recorded).exists():
        return config
    return dataclasses.replace(config, data=recorded)


def require_fingerprint(found: str, tags: dict[str, str], data: str) -> None:
    """Refuses a table that is not the one the run was trained on.

    Raises:
        DataError: the file's SHA-256 is not the recorded one.
    """
    recorded = tags.get("runback.data_fingerprint", "")
    if found != recorded:
        raise DataError(
            f"{data}: not the data of the run: SHA-256 is {found[:12]}..., "
            f"the run recorded {recorded[:12]}...; restore the file, or give it with --data"
        )


def _train_to_end(recorder: Recorder, work: Work) -> Outcome:
    """Trains, finishes, and tells the true end of it whatever happens."""
    run_id = recorder.folder.run_id
    recorder.begin()
    with Watch(work.config.checkpoint_minutes, recorder.desk.interrupted) as watch:
        try:
            _loop(recorder, work, watch)
            if not watch.signal:
                finish(recorder, work)
        except BaseException as error:
            recorder.end("FAILED", f"{type(error).__name__}: {error}")
            raise
        if watch.signal:
            recorder.end("KILLED")
            raise Interrupted(run_id, watch.signal)
        return Outcome(run_id, recorder.end("FINISHED"))


def _loop(recorder: Recorder, work: Work, watch: Watch) -> None:
    """Records each epoch, saves when it is time, and stops when a signal asks for it."""
    config, state = work.config, work.state
    progress = Progress(state.epoch, config.epochs)
    for event in run_epochs(state, work.batches, work.validation, config, watch.due):
        due = watch.due()
        if isinstance(event, EpochResult):
            recorder.epoch(event)
            progress.update(event)
            if not math.isfinite(event.cost):
                raise DivergedError(
                    f"the cost of epoch {event.epoch} is {event.cost}; try a smaller lr"
                )
            due = due or event.epoch % config.checkpoint_every == 0
        if due:
            recorder.checkpoint(state)
            watch.saved()
        if watch.signal:
            break
    progress.close()
    recorder.checkpoint(state)
    recorder.wait()


def _post_setup(recorder: Recorder, work: Work) -> None:
    """What the run must hold to be rebuilt elsewhere: the split, and the user's own code."""
    recorder.post_json("split.json", work.split.as_json())
    if work.built.own is not None:
        source = recorder.folder.source
        copy_sources(work.built.own, source)
        for file in source.rglob("*.py"):
            recorder.post_file(file, file.parent.relative_to(recorder.folder.path).as_posix())


def _own_source(config: TrainConfig, folder: RunFolder, desk: Desk) -> Any:
    """The user's code as the run recorded it, fetched where this machine does not have it."""
    if not is_own(config.model):
        return None
    if not folder.source.is_dir():
        desk.ask("fetch", run_id=folder.run_id, path="source", folder=str(folder.path))
    return folder.source


def _summary(work: Work) -> str:
    split, state = work.split, work.state
    rows = (
        f"{len(split.train)}/{len(split.validation)}/{len(split.test)} rows (train/validation/test)"
    )
    return f"{work.config.model}, {rows}, {state.device}, {torch.get_num_threads()} CPU thread(s)"
