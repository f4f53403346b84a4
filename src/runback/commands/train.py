"""The jobs behind the commands, each readable from top to bottom."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runback.commands.finish import finish
from runback.config import (
    MUTABLE_ON_RESUME,
    OPTION_NAMES,
    TrainConfig,
    parse,
    render,
    unknown_option,
)
from runback.console.progress import Progress, say
from runback.data.user_dataset import is_dataset
from runback.errors import (
    ConfigError,
    DataError,
    DivergedError,
    Interrupted,
    RunbackError,
)
from runback.run.restore import Restored, catch_up, restore
from runback.run.run import Run
from runback.run.signals import StopSignals
from runback.storage import lease
from runback.storage.atomic import naming_a_full_disk
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, run_dir
from runback.tasks import load_libraries
from runback.tracking.client import CourierClient
from runback.training.device import short_of_memory
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import TrainingSetup, prepare
from runback.training.state import TrainState
from runback.user_code import copy_sources, is_user_defined


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
    with CourierClient() as desk:
        return run_training(config, desk).run_id


def run_training(config: TrainConfig, desk: CourierClient, source: Path | None = None) -> Outcome:
    """`train`, with the news whether everything has been delivered.

    Args:
        config: of the run.
        desk: the courier, which the caller has started before torch was imported.
        source: a folder with the code of the user's module; None for what is importable.
    """
    launch = os.environ.get("MLFLOW_RUN_ID") or None
    with StopSignals(desk.interrupted) as watch:
        try:
            work = prepare(config, source)
        except RunbackError as error:
            desk.fail_launch(str(error))
            raise
        opened = desk.asked("open", config=config.as_params(), facts=work.facts(), run_id=launch)
        load_libraries()  # the courier is at work; at the end nobody should wait for imports
        run_id = opened()
        folder = run_dir(run_id)
        with FileLock(folder.lock).acquire(f"run {run_id}"):
            recorder = Run(folder, config, desk)
            with naming_a_full_disk(folder.path):
                _post_setup(recorder, work)
            say(f"run {run_id}: {_summary(work)}")
            return _train_to_end(recorder, work, watch)


def resume(run: str, **changes: Any) -> str:
    """Continues a run in place, from its newest good checkpoint; returns its ID.

    Args:
        run: in any form that names a run.
        changes: `epochs` to train to, another `device`, where the `data` lie now, or any other of
            the options that do not decide the numbers (`config.MUTABLE_ON_RESUME`).

    Raises:
        UsageError: no such run, an option that may not change, or data that have changed.
        RunHeldError: another process holds the run.
        DivergedError, Interrupted, TrackingError: as in `train`.
    """
    with CourierClient() as desk:
        return run_resume(run, changes, desk).run_id


def run_resume(run: str, changes: dict[str, Any], desk: CourierClient) -> Outcome:
    """`resume`, with the news whether everything has been delivered."""
    launch = os.environ.get("MLFLOW_RUN_ID") or ""
    with StopSignals(desk.interrupted) as watch:
        found = desk.asked("find", name=run or launch)
        load_libraries()
        run_id = found()["run_id"]
        if launch and launch != run_id:
            desk.ask("launch", launch_id=launch, run_id=run_id, what="resume")
        folder = run_dir(run_id)
        with FileLock(folder.lock).acquire(f"run {run_id}"):
            info = desk.ask("find", name=run_id)  # as it is now that nobody else changes it
            lease.require_free(info["tags"].get(lease.TAG, ""), f"run {run_id}")
            config, changes = changed(TrainConfig.from_mapping(info["config"]), changes)
            work, restored = _restored(config, changes, info["tags"], folder, desk)
            if info["status"] == "FINISHED" and work.is_done():
                say(f"run {run_id} has finished{_how_to_go_on(work, run_id)}")
                for name in changes.keys() - {"epochs", "patience"}:
                    say(f"warning: option {name} changes nothing where nothing is trained")
                return Outcome(run_id, delivered=True)
            recorder = Run(folder, work.config, desk, restored)
            desk.ask("reopen", run_id=run_id, tags=_reopening_tags(recorder, changes))
            say(f"run {run_id} resumed after {_place(work.state)}: {_summary(work)}")
            return _train_to_end(recorder, work, watch)


def changed(config: TrainConfig, changes: dict[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a resumed run, and those of the changes that do change something.

    Raises:
        ConfigError: an option that a resume may not change, or a value that does not fit.
    """
    for name in changes:
        if name not in OPTION_NAMES:
            raise ConfigError(unknown_option(name))
    wanted = {name: parse(name, value) for name, value in changes.items()}
    new = dataclasses.replace(config, **wanted)
    real = {n: getattr(new, n) for n in wanted if getattr(new, n) != getattr(config, n)}
    for name in real:
        if name not in MUTABLE_ON_RESUME:
            raise ConfigError(
                f"option {name}: the run has {render(getattr(config, name)) or 'none'}, and a resume "
                f"cannot change it, as the numbers would be others; it can change "
                f"{', '.join(n for n in OPTION_NAMES if n in MUTABLE_ON_RESUME)}"
            )
    return new, real


def _restored(
    config: TrainConfig,
    changes: dict[str, Any],
    tags: dict[str, str],
    folder: RunDir,
    desk: CourierClient,
) -> tuple[TrainingSetup, Restored | None]:
    """Everything as it was at the newest good checkpoint, or before the first epoch.

    Prepared with the epochs that the run began with: schedules whose shape comes from them keep it.

    Raises:
        UsageError: the data, the module or the number of epochs do not fit the run.
    """
    config = with_data(config, tags, changes)
    began_with = TrainConfig.from_json(tags["runback.config"]).epochs
    source = _own_source(config, folder, desk)

    def prepared() -> TrainingSetup:
        return prepare(dataclasses.replace(config, epochs=began_with), source)

    work = prepared()
    require_fingerprint(work.table.fingerprint, tags, config.data)
    restored = restore(work, folder, desk)
    if restored is None:
        say(f"run {folder.run_id} has no good checkpoint: it is trained from epoch 0")
        work = prepared()  # a checkpoint that failed half-way may have left its traces
    work = dataclasses.replace(work, config=config)
    _require_enough_epochs(work, catch_up(folder, tags, desk))
    return work, restored


def _require_enough_epochs(work: TrainingSetup, recorded: int) -> None:
    """Refuses to end a training before the place it has reached.

    Raises:
        ConfigError: more epochs are done, begun, or recorded.
    """
    begun = work.state.epoch + (1 if work.state.batch else 0)
    if work.config.epochs < max(begun, recorded):
        raise ConfigError(
            f"option epochs: {work.config.epochs} is less than the {max(begun, recorded)} epochs "
            "that the run has trained"
        )


def _reopening_tags(recorder: Run, changes: dict[str, Any]) -> dict[str, str]:
    """Who trains now, whose journal it goes through, and what is no longer as the params say."""
    tags = {f"runback.changed.{name}": render(value) for name, value in changes.items()}
    return {
        **tags,
        lease.TAG: lease.lease(os.getpid()),
        "runback.journal": recorder.journal.identity(),
    }


def _how_to_go_on(work: TrainingSetup, run_id: str) -> str:
    """Which option ended the training, and would let it go on."""
    command = f"train on with: runback resume {run_id}"
    if work.state.epoch >= work.config.epochs:
        return f"; {command} --epochs N"
    reason = f"its patience of {work.config.patience} epochs ended after epoch {work.state.epoch}"
    return f": {reason}; {command} --patience 0"


def _place(state: TrainState) -> str:
    inside = f" and {state.batch} batches" if state.batch else ""
    return f"epoch {state.epoch}{inside}"


def with_data(config: TrainConfig, tags: dict[str, str], changes: dict[str, Any]) -> TrainConfig:
    """The configuration with the table where the run read it, unless told where it lies now.

    Raises:
        DataError: it is not there, nor where the configuration says.
    """
    recorded = tags.get("runback.data_path", "")
    if "data" in changes:
        return config
    if recorded and _exists(recorded):
        return dataclasses.replace(config, data=recorded)
    if not _exists(config.data) and not is_dataset(config.data):
        raise DataError(
            f"{recorded or config.data}: the run's table is no longer there; put it back (resume "
            "can also be told with --data where it lies now)"
        )
    return config


def _exists(data: str) -> bool:
    """Whether a table is there, or the file of a user's dataset."""
    return Path(data).expanduser().exists() or Path(data.rpartition(":")[0]).is_file()


def require_fingerprint(found: str, tags: dict[str, str], data: str) -> None:
    """Refuses a table that is not the one the run was trained on.

    Raises:
        DataError: the file's SHA-256 is not the recorded one.
    """
    recorded = tags.get("runback.data_fingerprint", "")
    if found != recorded:
        raise DataError(
            f"{data}: not the data of the run: SHA-256 is {found[:12]}..., "
            f"the run recorded {recorded[:12]}...; restore the file (resume can also be told with "
            "--data where it lies now)"
        )


def _train_to_end(recorder: Run, work: TrainingSetup, watch: StopSignals) -> Outcome:
    """Trains, finishes, and tells the true end of it whatever happens."""
    run_id = recorder.folder.run_id
    recorder.begin()
    try:
        with short_of_memory(work.state.device):
            with watch.deferred(work.config.checkpoint_minutes):
                _loop(recorder, work, watch)
            with naming_a_full_disk(recorder.folder.path):
                finish(recorder, work)
        watch.defer()
    except BaseException as error:
        _end_early(recorder, watch, error)
        raise
    return Outcome(run_id, recorder.end("FINISHED", leave=lambda: watch.signal != 0))


def _end_early(recorder: Run, watch: StopSignals, error: BaseException) -> None:
    """KILLED if a signal asked for the end, also where it killed a loader worker; FAILED if not.

    Raises:
        Interrupted: a signal asked for the end.
    """
    watch.defer()
    before = watch.signal
    own = isinstance(error, RunbackError) and not isinstance(error, Interrupted)
    if before and not own:
        recorder.end("KILLED")
        raise Interrupted(recorder.folder.run_id, before) from None
    message = f"{type(error).__name__}: {error}"
    recorder.end("FAILED", message, leave=lambda: watch.signal != before)


def _loop(recorder: Run, work: TrainingSetup, watch: StopSignals) -> None:
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
                    f"the cost of epoch {event.epoch} is {event.cost}; try a smaller lr, or columns "
                    "of smaller numbers"
                )
            due = due or event.epoch % config.checkpoint_every == 0
        if due:
            recorder.checkpoint(state)
            watch.saved()
        if watch.signal:
            break
    progress.close()
    if state.epoch < config.epochs and not watch.signal:
        say(f"stopped after epoch {state.epoch}: no better val_cost for {config.patience} epochs")
    recorder.checkpoint(state)
    recorder.wait()


def _post_setup(recorder: Run, work: TrainingSetup) -> None:
    """What the run must hold to be rebuilt elsewhere: the split, and the user's own code."""
    recorder.post_json("split.json", work.split.as_json())
    if work.built.user_class is not None:
        source = recorder.folder.source
        copy_sources(work.built.user_class, source)
        for file in source.rglob("*.py"):
            recorder.post_file(file, file.parent.relative_to(recorder.folder.path).as_posix())


def _own_source(config: TrainConfig, folder: RunDir, desk: CourierClient) -> Any:
    """The user's code as the run recorded it, fetched where this machine does not have it."""
    if not is_user_defined(config.model):
        return None
    if not folder.source.is_dir():
        desk.ask("fetch", run_id=folder.run_id, path="source", folder=str(folder.path))
    return folder.source


def _summary(work: TrainingSetup) -> str:
    split, state = work.split, work.state
    rows = (
        f"{len(split.train)}/{len(split.validation)}/{len(split.test)} rows (train/validation/test)"
    )
    return f"{work.config.model}, {rows}, {state.device}, {torch.get_num_threads()} CPU thread(s)"
