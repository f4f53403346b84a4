"""`runback train`: prepares the training, creates the run, trains it, and finishes it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch.utils.data import Dataset

from runback import tasks
from runback.commands.finish import finish, require_finite
from runback.commands.fork_point import ForkPoint, begin_fork, say_taken_over
from runback.commands.launch import launch_id, require_adoptable
from runback.commands.note import post_unfinished
from runback.commands.options import TrainOptions
from runback.commands.own_objects import collect_sources, name_objects
from runback.commands.recorded import STORED_FRAME
from runback.commands.run_name import run_name
from runback.commands.source_check import check_sources
from runback.commands.stored_data import check_storable, write_copy
from runback.config import AUTO, TrainConfig, parse_all
from runback.console.epochs import Progress
from runback.console.progress import say, tell
from runback.data.files import object_name
from runback.data.frame import is_frame, named_frame, write_frame
from runback.errors import ConfigError, Interrupted, ModelError, RunbackError
from runback.limits import artifact_path_problem
from runback.model.rebuild import Rebuilder
from runback.open_run.checkpoints import Checkpointing
from runback.open_run.keys import earlier_run, holding_key, key_of
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.storage.atomic import naming_a_full_disk
from runback.storage.trust import remember, source_of, source_with
from runback.tracking import run_tag, tags
from runback.tracking.client import CourierClient
from runback.tracking.messages import DatasetPart, FindRun, RunDescription
from runback.training.device import short_of_memory
from runback.training.leaks import leaking_columns
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import TrainingSetup, prepare
from runback.user_code import copy_sources, is_lightning_module, refusing_exits, sources_of

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

DIGEST_LENGTH = 16
SPLIT_FILE = "split.json"
LEFT_OUT = "rows_without_target"  # a param of runs with missing_target drop


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        run_id: of the run.
        delivered: whether everything was delivered to the tracking server; else use `sync`.
    """

    run_id: str
    delivered: bool

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)


def train(
    data: str | Path | pd.DataFrame | Dataset[Any] | TrainConfig | None = None,
    config: TrainConfig | None = None,
    /,
    **options: Unpack[TrainOptions],
) -> TrainResult:
    """Trains a new run, or the run in MLFLOW_RUN_ID. An unfinished run is resumed, also by its key.

        train("houses.csv", target="price", model="mlp")
        train(frame, target="price", model="mlp")
        train(frame, target="price", model=Net)
        train(dataset, model=Net)
        train(TrainConfig(data="houses.csv", epochs=50), lr=0.01)

    Args:
        data: a table's path, a pandas DataFrame, a Dataset of torch.utils.data, or a configuration.
            A frame is kept with the run. A dataset is not: `evaluate` and `resume` need it again.
        config: the options that are not given as keywords; by default, the defaults.
        options: fields of `TrainConfig`; `model` is a name or a class of nn.Module, `loss` and each of
            `metrics` a name or a function, `optimizer` a name or a class. Of those in a script or a
            notebook, the definition and those that it uses are kept with the run.

    Raises:
        UsageError: the configuration, the table or the module cannot be used; no run is created.
        TrackingError: the tracking server is unreachable; no run is created.
        DivergedError: a cost is not finite; the run is FAILED, its checkpoints are kept.
        RebuildError: the trained model cannot be rebuilt from its files; the run is FAILED.
        Interrupted: SIGINT or SIGTERM; the run is KILLED and can be resumed by its ID.
    """
    if isinstance(data, TrainConfig):
        if config is not None:
            raise ConfigError("option config: is given twice")
        data, config = None, data
    given: dict[str, Any] = dict(options)
    if data is not None:
        given["data"] = _data_option(data)
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        source = name_objects(given, Path(folder))
        config = configured(config, given) if config else TrainConfig.from_mapping(given)
        if source is not None:
            collect_sources(config, source)
        if is_frame(data):
            return _train_frame(data, config, source)
        samples = data if isinstance(data, Dataset) else None
        if samples is not None and config.data_args:
            raise ConfigError("option data_args: has no effect on a dataset object")
        with CourierClient() as courier:
            return train_or_resume(config, courier, source, samples=samples)


def _data_option(data: str | Path | pd.DataFrame | Dataset[Any]) -> str:
    if isinstance(data, Dataset):
        return object_name(data)
    return STORED_FRAME if is_frame(data) else str(data)


def configured(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """A configuration with other options.

    Raises:
        ConfigError: an unknown option, or an invalid value.
    """
    return dataclasses.replace(config, **parse_all(options))


def _train_frame(frame: pd.DataFrame, config: TrainConfig, source: Path | None) -> TrainResult:
    if config.store_data == "false":
        raise ConfigError(
            "option store_data: a DataFrame is kept with its run, which cannot be resumed without it; "
            "use auto, or write it to a file"
        )
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        file = write_frame(frame, Path(folder) / Path(STORED_FRAME).name)
        with named_frame(file), CourierClient() as courier:
            return train_or_resume(config, courier, source, file)


def train_or_resume(
    config: TrainConfig,
    courier: CourierClient,
    source: Path | None = None,
    frame: Path | None = None,
    samples: Dataset[Any] | None = None,
) -> TrainResult:
    """Resumes the run in MLFLOW_RUN_ID, or the unfinished one with the key; else trains a new run.

    The options must be those of the run; the ones that a resume can change are changed. Arguments as
    in `run_training`.

    Raises:
        UsageError: another option, or the run is not one of `train`.
        RunHeldError: another process holds the run or the key.
    """
    if key := key_of(config.key or None):
        config = dataclasses.replace(config, key=key)
    with holding_key(config.key):
        _, record = earlier_run(courier, launch_id(), config.key)
        if record is None:
            return run_training(config, courier, source, frame, samples)
        from runback.commands.resume import changes_from, run_resume  # which needs this module

        changes = changes_from(record, config, frame)
        return run_resume(record.run_id, changes, courier, samples=samples)


def run_training(
    config: TrainConfig,
    courier: CourierClient,
    source: Path | None = None,
    frame: Path | None = None,
    samples: Dataset[Any] | None = None,
    point: ForkPoint | None = None,
) -> TrainResult:
    """Trains a new run, or the one in MLFLOW_RUN_ID.

    Args:
        config: of the run.
        courier: delivers the run to the tracking server; started before torch was imported.
        source: a folder with the code of the user's own parts; None to import them.
        frame: the Parquet file of a DataFrame, to keep with the run; None for a table of its own.
        samples: a dataset object, which is the data; None for the data that the options name.
        point: where the run begins if it is a fork; None to begin with epoch 0.
    """
    with StopSignals(courier.report_signal) as signals:
        setup = _prepared(config, courier, source, frame, samples)
        with Rebuilder(setup.built) as rebuilder, Run.new(courier, signals, launch_id()) as run:
            keep(run, setup)
            if point is not None:
                begin_fork(run, setup, point)
            _post_setup(run, setup, frame)
            with loading_libraries():
                run.create(description_of(setup, point), experiment_id=_experiment_id(point))
            tell(f"run {run.id}: {summary(setup)}")
            if point is not None:
                say_taken_over(run, setup, point)
            if setup.own.loss is not None:
                tell(f"the target has {_content(setup)}")
            if config.loss == AUTO:
                tell(f"loss {setup.config.loss}, as the target has {_content(setup)}")
            _warn(setup)
            return train_to_end(run, setup, signals, rebuilder)


def train_to_end(
    run: Run, setup: TrainingSetup, signals: StopSignals, rebuilder: Rebuilder
) -> TrainResult:
    """Trains a live run from its current state, and finishes it."""
    seen = run.seen()
    _say_where(seen)
    with (
        _described(run, setup),
        short_of_memory(setup.state.device),
        naming_a_full_disk(run.folder.path),
        refusing_exits(f"model {setup.config.model} or of its data"),
    ):
        with signals.deferred(setup.config.checkpoint_minutes):
            _loop(run, setup)
        finish(run, setup, rebuilder)
    result = TrainResult(run.id, run.finish())
    _say_where(seen)
    return result


@contextlib.contextmanager
def _described(run: Run, setup: TrainingSetup) -> Iterator[None]:
    """Describes a run without a model yet, and why it has none if the block fails.

    A finished run that is resumed has its model, and its description, until it has the next.
    """
    if run.record is not None and run.record.status == "FINISHED":
        yield
        return
    post_unfinished(run, setup)
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        with contextlib.suppress(RunbackError):
            post_unfinished(run, setup, error)
        raise


def _say_where(seen: str) -> None:
    if seen:
        tell(f"see it {seen}")


def keep(run: Run, setup: TrainingSetup) -> None:
    """Sets the content of the run's checkpoints, besides the position."""
    config = setup.config
    run.checkpointing = Checkpointing(config.identity(), config.keep_checkpoints)
    run.keep(**setup.state.kept())
    run.state |= {"model": config.model, "config": config.as_json(), "cost": math.nan}
    _describe(run, 0)


@contextlib.contextmanager
def loading_libraries() -> Iterator[None]:
    """Imports what scores and plots need while the block waits for the courier.

    All of it is there before the loop begins: an import beside the loop would take half of its
    time, and a loader worker must not be forked from a half-imported module.
    """
    thread = threading.Thread(target=tasks.load_libraries, name="libraries", daemon=True)
    thread.start()
    yield
    thread.join()


def summary(setup: TrainingSetup) -> str:
    """The model, the rows of each part, the device and the threads, as text."""
    split, state = setup.split, setup.state
    rows = (
        f"{len(split.train)}/{len(split.validation)}/{len(split.test)} rows (train/validation/test)"
    )
    scaled = setup.config.normalize_target != "none"
    return (
        f"{setup.config.model}, {rows}, {state.device}, {torch.get_num_threads()} CPU thread(s)"
        + ("; cost and val_cost are of the standardised target" if scaled else "")
    )


def _warn(setup: TrainingSetup) -> None:
    """Says what of the module is not used, which columns give the target away, and whether another
    loss may be meant."""
    own = setup.built.user_class
    if own is not None and is_lightning_module(own.cls):
        say(
            f"warning: model {setup.config.model} is a LightningModule, of which only forward is used: "
            "training_step and configure_optimizers are not; for these train it with Lightning's "
            "Trainer and runback.lightning.RunbackLogger"
        )
    table, layout = setup.table, setup.built.spec.layout.columns
    for name in leaking_columns(layout, table.features, table.targets, setup.split.train):
        say(
            f"warning: column {name!r} alone determines the target; if it is not known when the "
            f"model is used, leave it out with --features=-{name}"
        )
    hint = tasks.hint_for(setup.config.loss, table.targets.index_select(0, setup.split.train))
    if hint:
        say(f"warning: option loss: {hint}")


def _content(setup: TrainingSetup) -> str:
    """What the target has, in words."""
    labels = setup.built.spec.labels
    return f"{len(labels[0].classes)} classes" if labels else "numbers"


def _prepared(
    config: TrainConfig,
    courier: CourierClient,
    source: Path | None,
    frame: Path | None,
    samples: Dataset[Any] | None,
) -> TrainingSetup:
    """The setup of a training; if it fails, a launched run becomes FAILED."""
    table = dataclasses.replace(config, data=str(frame)) if frame else config
    try:
        if source is None:
            check_sources(config)
        setup = prepare(table, source, samples)
        check_storable(config, setup)
    except RunbackError as error:
        courier.fail_launch(str(error))
        raise
    if launch_id():
        require_adoptable(courier.ask(FindRun(launch_id())), config)
    if frame is None:
        return setup
    config = dataclasses.replace(setup.config, data=config.data)
    return dataclasses.replace(
        setup, config=config, table=dataclasses.replace(setup.table, path=Path(STORED_FRAME))
    )


def _loop(run: Run, setup: TrainingSetup) -> None:
    """Logs each epoch, and calls the run's safe point after it and at each pause."""
    config, state = setup.config, setup.state
    with Progress(state.epoch, config.epochs, run.waiting) as progress:
        if state.best is not None:
            progress.best, progress.best_epoch = state.best.val_cost, state.best.epoch
        parts = setup.batches, setup.validation
        for event in run_epochs(state, *parts, config, run.should_advance, setup.loss):
            due = False
            if isinstance(event, EpochResult):
                _log(run, event, setup.validation_scores())
                progress.update(event.epoch, event.cost, event.val_cost)
                due = event.epoch % config.checkpoint_every == 0
            if run.advance(state.position, due=due):
                progress.checkpointed(state.epoch, state.batch)
        run.checkpoint(state.position)
        if progress.saved != state.epoch:
            progress.checkpointed(state.epoch, state.batch)
    if state.epoch < config.epochs:
        tell(f"stopped after epoch {state.epoch}: no better val_cost for {config.patience} epochs")
    run.wait()


def _log(run: Run, result: EpochResult, scores: dict[str, float]) -> None:
    """Logs an epoch's metrics, the learning rate only when it changes, and own validation scores.

    Raises:
        DivergedError: a cost is not finite; both are logged first.
    """
    metrics = {"cost": result.cost}
    if result.val_cost is not None:
        metrics["val_cost"] = result.val_cost
    if result.lr != run.state.get("lr"):
        run.state["lr"] = metrics["lr"] = result.lr
    metrics |= {f"val_{name}": value for name, value in scores.items()}
    run.log(metrics, step=result.epoch)
    run.state["cost"] = result.cost
    _describe(run, result.epoch)
    for name in ("cost", "val_cost"):
        if name in metrics:
            require_finite(name, metrics[name], result.epoch)


def _describe(run: Run, epoch: int) -> None:
    run.state["description"] = f"{run.state['model']} checkpoint of epoch {epoch}"


def _post_setup(run: Run, setup: TrainingSetup, frame: Path | None) -> None:
    """Posts the split, the columns, a frame and a user's code, which rebuild the run elsewhere."""
    remember_code(setup)
    with naming_a_full_disk(run.folder.path):
        if frame is not None:
            kept = run.folder.path / STORED_FRAME
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(frame, kept)
            run.post_file(kept, kept.parent.name)
        elif copy := write_copy(setup, run.folder.path):
            run.post_file(copy, copy.parent.name)
        post_split(run, setup)
        run.post_json("columns.json", [column.as_json() for column in setup.table.encoders])
        if setup.own_code:
            copy_sources(setup.own_code, run.folder.source)
            post_source(run, setup)


def post_split(run: Run, setup: TrainingSetup) -> None:
    """Posts the split, which identifies the held-out rows."""
    run.post_json(SPLIT_FILE, setup.split.as_json())


def post_source(run: Run, _setup: TrainingSetup) -> None:
    """Posts the recorded code of a user-defined module."""
    for file in run.folder.source.rglob("*.py"):
        _require_artifact_path(file.relative_to(run.folder.path).as_posix())
        run.post_file(file, file.parent.relative_to(run.folder.path).as_posix())


def _require_artifact_path(path: str) -> None:
    """Checks the path of a file that is stored with the run.

    Raises:
        ModelError: the store would refuse it.
    """
    if problem := artifact_path_problem(path):
        raise ModelError(f"your code: {path!a} cannot be stored with the run: it {problem}")


def remember_code(setup: TrainingSetup) -> None:
    """Records the code that the user trains with as known on this machine."""
    own, dataset = setup.built.user_class, setup.table.dataset
    for parts in ([own] if own else [], setup.own_code):  # of the model, and of the run
        if files := sources_of(parts):
            remember(source_with(files), "trained")
    if dataset is not None and dataset.code is not None:
        code = dataset.code
        remember(source_of(code.root, dataset.files, code.reference), "trained")


def _experiment_id(point: ForkPoint | None) -> str:
    """The experiment of a fork, which is that of its run; empty for the one of the environment."""
    return point.record.experiment_id if point is not None and point.record is not None else ""


def description_of(setup: TrainingSetup, point: ForkPoint | None = None) -> RunDescription:
    """What the run is described with at its start: params, tags, facts, and dataset inputs."""
    config, table = setup.config, setup.table
    counted = {} if config.missing_target == "refuse" else {LEFT_OUT: str(table.left_out)}
    return RunDescription(
        params={**{n: text for n, text in config.as_params().items() if text}, **counted},
        tags={
            tags.RUN_NAME: run_name(config, point.tags if point else None),
            **({tags.KEY: config.key} if config.key else {}),
            **({tags.FORK_OF: point.tags.run_id} if point else {}),
        },
        facts={
            run_tag.CONFIG: config.as_params(),
            run_tag.DATA_FINGERPRINT: table.fingerprint,
            run_tag.DATA_PATH: str(table.path),
            **({run_tag.FORK: point.tags.as_entry()} if point else {}),
        },
        datasets=tuple(_dataset_parts(setup)),
    )


def _dataset_parts(setup: TrainingSetup) -> list[DatasetPart]:
    table, split = setup.table, setup.split
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    return [
        DatasetPart(
            part=part,
            name=table.name,
            digest=_digest(f"{table.fingerprint}{split.digest}{part}"),
            path=str(table.path),
            sha256=table.fingerprint,
            columns=(*table.columns.features, *table.columns.targets),
            n_rows=len(rows),
            shape=table.sample_shape,
            dtype=setup.built.spec.dtype,
        )
        for part, rows in parts.items()
        if len(rows)
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
