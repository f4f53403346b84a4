"""`runback fork`: a new run from a checkpoint of another, with other options."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from torch.utils.data import Dataset

from runback.commands.fork_point import ForkPoint
from runback.commands.launch import launch_id
from runback.commands.options import TrainOptions
from runback.commands.recorded import (
    STORED_FRAME,
    config_of,
    original_config_of,
    with_data,
)
from runback.commands.resume import changes_from, run_resume, stored_file, user_source
from runback.commands.train import SPLIT_FILE, TrainResult, run_training
from runback.config import (
    AUTO,
    FIELDS,
    FIXED_IN_FORK,
    LOSSES,
    OPTION_NAMES,
    TrainConfig,
    parse_all,
    render,
)
from runback.data.files import object_name
from runback.decoding import decode
from runback.errors import ConfigError, TrackingError, UsageError
from runback.open_run.forking import changes_text, find_start
from runback.open_run.keys import earlier_run, holding_key, key_of
from runback.storage.paths import RunDir, run_dir
from runback.tasks import by_loss
from runback.tracking.client import CourierClient
from runback.tracking.messages import FetchArtifact, FindRun
from runback.tracking.record import RunRecord
from runback.training.carrying import SCHEDULER, parts_kept
from runback.training.optimizers import schedule_args
from runback.training.setup import dtype_of

# Options that belong to the run, and those that belong to the value of another option.
OF_THE_RUN = ("name", "key")
OF_ANOTHER = {"optimizer": ("momentum", "optimizer_args"), "scheduler": ("scheduler_args",)}
LEFT_TO_THE_DATA = (("loss", AUTO), ("normalize_target", AUTO))


@dataclass(frozen=True)
class _Asked:
    """What was asked for: the run to fork, where, the given options, consent and the dataset."""

    record: RunRecord
    at: int | None
    options: dict[str, Any]
    trust: bool
    samples: Dataset[Any] | None


def fork(
    run: str,
    data: str | Dataset[Any] | None = None,
    /,
    *,
    at: int | None = None,
    trust: bool = False,
    **options: Unpack[TrainOptions],
) -> TrainResult:
    """Trains a new run from a checkpoint of another one, with other options.

    The new run takes over the weights, the state of the optimizer, the schedule, the generators and
    the best epoch so far, as far as they fit the options. Without changed options it is
    bit-identical to the other run after that epoch. It is in the same experiment.

    Args:
        run: RUN in any of its forms; it may be in training. It is not changed.
        data: the new path of the run's table, or the dataset that was given to `train`; the content
            must be the same.
        at: completed epochs of the checkpoint; by default the newest one.
        trust: as in `load_model`.
        options: the fields of `TrainConfig` that are changed. Those of the rows, the columns and the
            module cannot be.

    Raises:
        UsageError: no such run or checkpoint, or an option that does not fit; no run is created.
        TrustError: the run has code that is not known here, and `trust` is False.
        RunHeldError: another process has the key.
        DivergedError, RebuildError, Interrupted, TrackingError: as in `train`.
    """
    samples = data if isinstance(data, Dataset) else None
    given: dict[str, Any] = dict(options)
    if data is not None:
        given["data"] = object_name(data) if isinstance(data, Dataset) else data
    with CourierClient() as courier:
        return run_fork(run, at, given, courier, trust, samples)


def run_fork(
    run: str,
    at: int | None,
    given: Mapping[str, Any],
    courier: CourierClient,
    trust: bool = False,
    samples: Dataset[Any] | None = None,
) -> TrainResult:
    """`fork` with a courier that the caller has started, and options by name."""
    options = parse_all(given)
    record = courier.ask(FindRun(run))
    record.require_active()
    _require_trained(record)
    key, place = key_of(options.get("key") or None), record.experiment_id
    options |= {"key": key} if key else {}
    asked = _Asked(record, at, options, trust, samples)
    with holding_key(key, f"id {place}"):
        _, begun = earlier_run(courier, launch_id(), key, experiment_id=place)
        if begun is not None:
            return _resumed(asked, begun, courier)
        with tempfile.TemporaryDirectory(prefix="runback-") as folder:
            return _trained(asked, Path(folder), courier)


def forked_config(record: RunRecord, options: Mapping[str, Any], at: int) -> TrainConfig:
    """The options of a fork.

    A schedule that begins anew is one over the epochs that are left.

    Args:
        record: of the run that is forked.
        options: those that are given, parsed.
        at: the epoch at which the fork begins.

    Raises:
        ConfigError: an option that a fork cannot change, or no epoch is left.
    """
    before = config_of(record)
    new = {name: v for name, v in options.items() if (name, v) not in LEFT_TO_THE_DATA}
    dropped = list(OF_THE_RUN)
    for name, others in OF_ANOTHER.items():
        if new.get(name, getattr(before, name)) != getattr(before, name):
            dropped += others
    defaults = {name: FIELDS[name].metadata["default"] for name in dropped}
    config = dataclasses.replace(before, **{**defaults, **new})
    _require_fitting(record, before, config)
    if config.epochs <= at:
        raise ConfigError(
            f"option epochs: {config.epochs} is not more than the {at} after which the fork begins; "
            "give more, or an earlier checkpoint with --at"
        )
    if SCHEDULER in _kept(record, config) or config.scheduler == "none":
        return config
    left = dataclasses.replace(config, epochs=config.epochs - at)
    return dataclasses.replace(config, scheduler_args=schedule_args(left))


def _kept(record: RunRecord, config: TrainConfig) -> tuple[str, ...]:
    return parts_kept(original_config_of(record), config, _changed(record, config))


def _changed(record: RunRecord, config: TrainConfig) -> set[str]:
    """The names of the options in which a fork differs from its run."""
    before = config_of(record)
    return {
        name
        for name, text in config.as_params().items()
        if text != before.as_params()[name] and name not in (*OF_THE_RUN, "data")
    }


def _require_trained(record: RunRecord) -> None:
    """Checks that a run is one of `runback train`.

    Raises:
        UsageError: it has a loop of its own.
        RunNotFoundError: it was not trained by runback.
    """
    if record.has_own_loop:
        raise UsageError(
            f"run {record.run_id} has a loop of its own: fork it in its script, with "
            f"runback.run(..., fork={record.run_id!r})"
        )
    original_config_of(record)


def _require_fitting(record: RunRecord, before: TrainConfig, config: TrainConfig) -> None:
    """Checks that a fork has the rows, the columns and the module of its run.

    Raises:
        ConfigError: an option changes them; it is named.
    """
    changed = _changed(record, config)
    tasks = [by_loss(loss).name for loss in (config.loss, before.loss) if loss in LOSSES]
    if len(tasks) == 2 and tasks[0] == tasks[1]:
        changed.discard("loss")
    fixed = FIXED_IN_FORK | {"loss", "precision"}
    if ":" in config.optimizer:  # the recorded code is that of the run
        fixed |= {"optimizer"}
    if dtype_of(config.precision) == dtype_of(before.precision):
        changed.discard("precision")
    for name in OPTION_NAMES:
        if name in changed & fixed:
            raise ConfigError(
                f"option {name}: the run has {render(getattr(before, name)) or 'none'}, and a fork "
                "cannot change it, as it has the rows, the columns, the weights and the code of its "
                "run; train a new run for that"
            )


def _trained(asked: _Asked, into: Path, courier: CourierClient) -> TrainResult:
    record = asked.record
    start, folder = find_start(record, asked.at, courier, into), run_dir(record.run_id)
    config, frame = forked_config(record, asked.options, start.epoch), None
    kept, changed = _kept(record, config), _changed_text(record, config)
    if "data" not in asked.options:
        config = with_data(config, record.tags, lambda path: stored_file(folder, path, courier))
        if record.tags.data_path == STORED_FRAME:
            frame, config = Path(config.data), dataclasses.replace(config, data=STORED_FRAME)
    source = user_source(folder, config, courier, asked.trust)
    split = _split_sha256(folder, courier, into)
    point = ForkPoint(start, kept, changed, record, split)
    return run_training(config, courier, source, frame, asked.samples, point)


def _resumed(asked: _Asked, begun: RunRecord, courier: CourierClient) -> TrainResult:
    """Continues a fork that the same command has begun: the run of its key, or that was given.

    Raises:
        UsageError: it is not this fork.
    """
    fork, record, at = begun.tags.fork, asked.record, asked.at
    if fork is None or fork.run_id != record.run_id or at not in (None, fork.epoch):
        where = f" after epoch {at}" if at is not None else ""
        raise UsageError(
            f"run {begun.run_id} has been begun, and not as a fork of run {record.run_id}{where}; use "
            "another key, or unset MLFLOW_RUN_ID"
        )
    config = forked_config(record, asked.options, fork.epoch)
    changes = changes_from(begun, config, None)
    if "data" not in asked.options:
        changes.pop("data", None)
    return run_resume(begun.run_id, changes, courier, trust=asked.trust, samples=asked.samples)


def _changed_text(record: RunRecord, config: TrainConfig) -> str:
    names = _changed(record, config)
    before, after = (
        {name: text or "none" for name, text in each.as_params().items() if name in names}
        for each in (config_of(record), config)
    )
    return changes_text(before, after)


def _split_sha256(folder: RunDir, courier: CourierClient, into: Path) -> str:
    """The digest of a run's split, from its local files or its artifacts.

    Raises:
        TrackingError: it is missing or damaged.
    """
    file = folder.outbox / SPLIT_FILE
    if not file.is_file():
        file = into / SPLIT_FILE
        courier.ask(FetchArtifact(folder.run_id, SPLIT_FILE, str(into)))
    try:
        return str(decode(json.loads, file.read_text(encoding="utf-8"))["sha256"])
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TrackingError(f"run {folder.run_id}: {SPLIT_FILE} is damaged: {error}") from None
