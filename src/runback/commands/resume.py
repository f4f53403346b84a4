"""`runback resume`: holds the run, restores it, continues the training, and finishes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from runback.commands.fork_point import begin_again
from runback.commands.launch import launch_id
from runback.commands.recorded import (
    config_of,
    kept_references,
    original_config_of,
    own_code_of,
    require_fingerprint,
    with_data,
)
from runback.commands.train import (
    SPLIT_FILE,
    TrainResult,
    description_of,
    keep,
    loading_libraries,
    post_source,
    post_split,
    remember_code,
    summary,
    train_to_end,
)
from runback.config import (
    AUTO,
    FIELDS,
    MUTABLE_ON_RESUME,
    OPTION_NAMES,
    TrainConfig,
    parse,
    render,
    unknown_option,
)
from runback.console.progress import say, tell
from runback.data.readers import fingerprint
from runback.errors import ConfigError, TrackingError, UsageError
from runback.model.rebuild import Rebuilder
from runback.open_run.run import Run
from runback.open_run.signals import StopSignals
from runback.storage.paths import RunDir
from runback.storage.trust import require_trust
from runback.tracking.client import CourierClient
from runback.tracking.messages import FetchArtifact, FindRun, ListArtifacts, NestLaunch
from runback.tracking.record import RunRecord
from runback.training.setup import TrainingSetup, prepare
from runback.training.state import TrainState


@dataclass(frozen=True)
class Consent:
    """What the user said in this command.

    Attributes:
        names_data: whether the table is named, or a dataset given.
        from_scratch: whether to train again from epoch 0.
        trust: whether to run stored code that is not known here.
        samples: a dataset object, which is the data.
    """

    names_data: bool
    from_scratch: bool
    trust: bool
    samples: Dataset[Any] | None = None


def resume(
    run: str,
    *,
    data: str | Dataset[Any] | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    device: str | None = None,
    register: str | None = None,
    checkpoint_every: int | None = None,
    checkpoint_minutes: float | None = None,
    keep_checkpoints: int | None = None,
    name: str | None = None,
    from_scratch: bool = False,
    trust: bool = False,
) -> TrainResult:
    """Continues a run in place, from its newest valid checkpoint.

    Args:
        run: RUN in any of its forms.
        data: the new path of the run's table, or the dataset that was given to `train`; the content
            must be the same.
        epochs: total number of epochs.
        patience: epochs without a better val_cost; 0 continues a run that patience ended.
        device: to train on.
        register: name of the registered model.
        checkpoint_every: epochs between checkpoints.
        checkpoint_minutes: minutes between checkpoints.
        keep_checkpoints: checkpoints to keep.
        name: the new name of the run.
        from_scratch: train again from epoch 0; without it, a run that has trained and has no valid
            checkpoint is refused.
        trust: as in `load_model`.

    Raises:
        UsageError: no such run, an invalid value, changed data, or no valid checkpoint.
        TrustError: the run has code that is not known here, and `trust` is False.
        RunHeldError: another process holds the run.
        DivergedError, Interrupted, TrackingError: as in `train`.
    """
    samples = data if isinstance(data, Dataset) else None
    given = {
        "data": data if samples is None else None,
        "epochs": epochs,
        "patience": patience,
        "device": device,
        "register": register,
        "checkpoint_every": checkpoint_every,
        "checkpoint_minutes": checkpoint_minutes,
        "keep_checkpoints": keep_checkpoints,
        "name": name,
    }
    with CourierClient() as courier:
        changes = {name: value for name, value in given.items() if value is not None}
        return run_resume(run, changes, courier, from_scratch, trust, samples)


def run_resume(
    run: str,
    changes: dict[str, Any],
    courier: CourierClient,
    from_scratch: bool = False,
    trust: bool = False,
    samples: Dataset[Any] | None = None,
) -> TrainResult:
    """`resume` with a courier that the caller has started, and changes by option name.

    `samples` is a dataset object, which is the data.
    """
    with StopSignals(courier.report_signal) as signals:
        with loading_libraries():
            record = courier.ask(FindRun(run or launch_id()))
        record.require_active()
        if launch_id() and launch_id() != record.run_id:
            courier.ask(NestLaunch(launch_id(), record.run_id, "resume"))
        with Run.hold(courier, signals, record.run_id) as held:
            assert held.record is not None
            config, real = changed(config_of(held.record), changes)
            named = "data" in changes or samples is not None
            consent = Consent(named, from_scratch, trust, samples)
            setup = _restored(held, config, consent, courier)
            if held.record.status == "FINISHED" and setup.is_done():
                return _already_finished(held, setup, real)
            missing = _missing_files(held, setup, courier)
            changed_tags = {name: render(value) for name, value in real.items()}
            began_with = dataclasses.replace(setup, config=original_config_of(held.record))
            remember_code(setup)
            with Rebuilder(setup.built) as rebuilder:
                held.reopen(changed_tags, description_of(began_with))
                for post in missing:
                    post(held, setup)
                tell(f"run {held.id} resumed after {_position_text(setup.state)}: {summary(setup)}")
                return train_to_end(held, setup, signals, rebuilder)


def changes_from(record: RunRecord, config: TrainConfig, frame: Path | None) -> dict[str, Any]:
    """The options in which a configuration differs from the one that a run was begun with.

    Options that are left to the data, such as `loss` auto, do not differ from what was chosen.

    Args:
        record: of the run.
        config: of the command that is given once more.
        frame: the Parquet file of its DataFrame; None for a table of its own.

    Raises:
        UsageError: the DataFrame is another one.
    """
    began_with, recorded = original_config_of(record), config_of(record)
    changes = {}
    for name in FIELDS:
        value = getattr(config, name)
        if value not in (AUTO, getattr(began_with, name), getattr(recorded, name)):
            changes[name] = value
    if frame is not None:
        require_fingerprint(fingerprint(frame), record, "the DataFrame")
    return changes


def changed(config: TrainConfig, changes: dict[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a resumed run, and the changes that differ from the current values.

    Raises:
        ConfigError: an option that a resume may not change, or an invalid value.
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
                f"cannot change it, as the results would differ; it can change "
                f"{', '.join(n for n in OPTION_NAMES if n in MUTABLE_ON_RESUME)}"
            )
    return new, real


def _restored(
    run: Run, config: TrainConfig, consent: Consent, courier: CourierClient
) -> TrainingSetup:
    """The setup at the newest valid checkpoint or, without one, where the run begins.

    It is prepared with the run's original number of epochs, on which schedules depend.

    Args:
        run: the held run.
        config: its configuration, with the changes.
        consent: what the user said in this command.
        courier: downloads what is missing.

    Raises:
        UsageError: the data, the module or the number of epochs do not fit the run, or the run has
            trained and has no valid checkpoint.
    """
    record = run.record
    assert record is not None
    if not consent.names_data:
        config = with_data(config, record.tags, lambda path: stored_file(run.folder, path, courier))
    began_with = original_config_of(record).epochs
    source = user_source(run.folder, config, courier, consent.trust)

    def prepared() -> TrainingSetup:
        setup = prepare(dataclasses.replace(config, epochs=began_with), source, consent.samples)
        require_fingerprint(setup.table.fingerprint, record, config.data)
        keep(run, setup)
        return setup

    setup, recorded = prepared(), run.catch_up()
    if consent.from_scratch or not restore_into(run, setup):
        setup = prepared()  # a failed restore may have changed the objects
        _begin(run, setup, consent)
    setup = dataclasses.replace(setup, config=config)
    run.state["config"] = config.as_json()
    _require_enough_epochs(setup, recorded)
    return setup


def _begin(run: Run, setup: TrainingSetup, consent: Consent) -> None:
    """Begins the training of a resumed run: from epoch 0 or, of a fork, from its checkpoint.

    Raises:
        UsageError: the run has trained, and training it again is not what the user has said.
    """
    assert run.record is not None
    fork = run.record.tags.fork
    first = fork.epoch if fork else 0
    if consent.from_scratch:
        tell(f"run {run.id}: training starts again from epoch {first}")
    else:
        run.require_untrained()
        tell(f"run {run.id} has no checkpoint yet: training starts from epoch {first}")
    if fork:
        begin_again(run, setup)


def _missing_files(
    run: Run, setup: TrainingSetup, courier: CourierClient
) -> list[Callable[[Run, TrainingSetup], None]]:
    """What posts the files that the run needs to be whole and that are not among its artifacts."""
    missing: list[Callable[[Run, TrainingSetup], None]] = []
    try:
        if SPLIT_FILE not in courier.ask(ListArtifacts(run.id, "")):
            missing.append(post_split)
        if setup.own_code and not courier.ask(ListArtifacts(run.id, "source")):
            missing.append(post_source)
    except TrackingError as error:
        say(f"warning: the run's artifacts cannot be listed: {error}")
    return missing


def restore_into(run: Run, setup: TrainingSetup) -> bool:
    """Restores the training's state; returns False if the run has no valid checkpoint.

    Raises:
        ModelError: the weights do not fit the module.
    """
    position = run.restore()
    if position is None:
        return False
    setup.state.position, setup.state.cost = position, run.state["cost"]
    run.state["config"] = setup.config.as_json()  # not the one that the checkpoint was written with
    return True


def stored_file(run: RunDir, path: str, courier: CourierClient) -> Path:
    """The local file of an artifact in the run's folder; its folder is downloaded if missing."""
    if not (run.path / path).is_file():
        courier.ask(FetchArtifact(run.run_id, Path(path).parent.name, str(run.path)))
    return run.path / path


def user_source(
    run: RunDir, config: TrainConfig, courier: CourierClient, trust: bool
) -> Path | None:
    """The folder with the recorded code of the user's own parts, downloaded if missing.

    Raises:
        TrustError: the code is not known here, and `trust` is False.
        UsageError: the recorded code is neither here nor among the artifacts; the current file of
            that name may be other code.
    """
    names = kept_references(config)
    if not names:
        return None
    folder = run.source
    if not folder.is_dir():
        try:
            courier.ask(FetchArtifact(run.run_id, "source", str(run.path)))
        except TrackingError as error:
            raise UsageError(
                f"run {run.run_id}: the recorded source of {', '.join(names)} is neither in {folder} "
                f"nor among its artifacts ({error}); restore one of them"
            ) from None
    require_trust(folder, f"the {own_code_of(config)} of run {run.run_id}", trust)
    return folder


def _require_enough_epochs(setup: TrainingSetup, recorded: int) -> None:
    """Checks the option `epochs` against the trained epochs.

    Raises:
        ConfigError: more epochs are trained, begun or recorded.
    """
    begun = setup.state.epoch + (1 if setup.state.batch else 0)
    if setup.config.epochs < max(begun, recorded):
        raise ConfigError(
            f"option epochs: {setup.config.epochs} is less than the {max(begun, recorded)} epochs "
            "that the run has trained"
        )


def _already_finished(run: Run, setup: TrainingSetup, changes: dict[str, Any]) -> TrainResult:
    say(f"run {run.id} has finished{_continue_hint(setup, run.id)}")
    for name in changes.keys() - {"epochs", "patience"}:
        say(f"warning: option {name} has no effect: no epoch is left to train")
    return TrainResult(run.id, delivered=True)


def _continue_hint(setup: TrainingSetup, run_id: str) -> str:
    """The option that ended the training, and the command to continue it."""
    command = f"continue with: runback resume {run_id}"
    if setup.state.epoch >= setup.config.epochs:
        return f"; {command} --epochs N"
    patience = f"its patience of {setup.config.patience} epochs ended after epoch"
    return f": {patience} {setup.state.epoch}; {command} --patience 0"


def _position_text(state: TrainState) -> str:
    inside = f" and {state.batch} batches" if state.batch else ""
    return f"epoch {state.epoch}{inside}"
