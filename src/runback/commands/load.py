"""Downloads and loads a run's model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from runback.commands.recorded import config_of, kept_references, own_code_of
from runback.config import TrainConfig, own_references
from runback.errors import CheckpointError, UsageError
from runback.model.digests import verify_digests
from runback.model.own_spec import is_own, load_own_verified
from runback.model.spec import SOURCE_FOLDER, ModelSpec, load_verified
from runback.storage.paths import run_dir
from runback.storage.trust import require_trust
from runback.tasks import by_name
from runback.tracking import artifacts, connection, registry, tags
from runback.tracking.find_run import find_run
from runback.tracking.record import RunRecord
from runback.training.device import choose_device
from runback.training.own_parts import OwnParts
from runback.training.scoring import Scoring, recorded_scoring, scoring
from runback.user_code import UserClass, refusing_exits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel


@dataclass(frozen=True)
class Loaded:
    """A run's model in eval mode, with its run, configuration and spec.

    Attributes:
        user_class: the user-defined class of the module, if any.
        folder: the downloaded model folder; deleted at the end of `loading`.
        epoch: of the weights, in epochs completed.
        trust: the user's consent to run stored code.
    """

    client: MlflowClient
    record: RunRecord
    config: TrainConfig
    module: nn.Module
    spec: ModelSpec
    user_class: UserClass | None
    folder: Path
    epoch: int
    trust: bool = False


def load_model(run: str, device: str = "cpu", trust: bool = False) -> nn.Module:
    """Loads a run's module with its weights, in eval mode.

    In a notebook, on any machine with access to the tracking server:

        import mlflow
        import torch
        from runback import load_model

        mlflow.set_tracking_uri("http://127.0.0.1:5000")  # or set MLFLOW_TRACKING_URI
        model = load_model("models:/non_linear@champion")  # or a run ID, a prefix of one, latest
        x = torch.tensor([[1.0], [5.0], [11.0]])  # [rows, features], raw, in the columns' order
        with torch.no_grad():
            print(model(x))  # [rows, targets]

    Args:
        run: a run ID, a unique prefix, latest, runs:/ID, models:/NAME/VERSION or models:/NAME@ALIAS.
        device: as the option `device`; it may differ from the training device.
        trust: whether to run the stored code of a user-defined module that was neither trained with
            nor trusted on this machine.

    Returns:
        A module from feature columns to `[n, n_targets]`, or to arrays where the targets are some, in
        the run's dtype (float32, or float64 if the run used it). If all features are numbers without
        missing cells, its input is the raw columns `[n, n_features]`; otherwise the encoded columns
        `[n, width]` of columns.json, which `predict` makes from a frame. A module trained on samples
        with a shape takes `[n, *shape]`. One that was registered from a loop of its own
        (`runback.run`) takes and returns what it did there.

    Raises:
        RunNotFoundError: no such run, or it has no model yet.
        TrackingError: the server is unreachable.
        TrustError: the model has code that is not known here, and `trust` is False.
        ModelError, CheckpointError: the model is damaged or was manipulated.
    """
    chosen = choose_device(device)
    with downloading(run, trust) as found:
        if is_own(found.folder):
            return load_own_verified(found.folder, chosen).module
        return loaded_of(found, chosen).module


@contextmanager
def loading(run: str, device: str = "cpu", trust: bool = False) -> Iterator[Loaded]:
    """Downloads and loads a model of `train`; its files are deleted at the end of the block.

    Raises:
        UsageError: the model was registered from a loop of its own.
        RunNotFoundError, TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
    """
    chosen = choose_device(device)
    with downloading(run, trust) as found:
        if is_own(found.folder):
            raise UsageError(
                f"the {found.what} was registered from a loop of its own, which has no table and no "
                "test rows: use it with predict, load_model or mlflow.pyfunc, and record scores with "
                "run.log_final"
            )
        yield loaded_of(found, chosen)


@dataclass(frozen=True)
class Downloaded:
    """A model folder that was verified, whose code may run; deleted at the end of `downloading`.

    Attributes:
        what: the model's name in errors.
        trust: the user's consent to run stored code.
    """

    client: MlflowClient
    record: RunRecord
    model: LoggedModel
    folder: Path
    what: str
    trust: bool


@contextmanager
def downloading(run: str, trust: bool = False) -> Iterator[Downloaded]:
    """Downloads and verifies a model; its files are deleted at the end of the block.

    Raises:
        RunNotFoundError, TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
    """
    client = connection.connect()
    record = find_run(client, run)
    model = registry.logged_model(client, record)
    what = f"model of run {record.run_id}"
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        path = registry.download_model(client, model, Path(folder), what)
        verify_digests(path, what, registry.digest_of(model, what))  # before consent is asked for
        require_trust(path / SOURCE_FOLDER, f"the {what}", trust)
        with refusing_exits(f"the {what}"):
            yield Downloaded(client, record, model, path, what, trust)


def loaded_of(found: Downloaded, device: torch.device) -> Loaded:
    """The model of a run of `train`."""
    built = load_verified(found.folder, device)
    return Loaded(
        client=found.client,
        record=found.record,
        config=config_of(found.record),
        module=built.module,
        spec=built.spec,
        user_class=built.user_class,
        folder=found.folder,
        epoch=_epoch(found.model, found.what),
        trust=found.trust,
    )


def own_source(loaded: Loaded) -> Path:
    """The folder with the recorded code of the run's own parts, downloaded if missing.

    The model's folder has only that of its module, which is all that a prediction needs.

    Raises:
        TrustError: the code is not known here, and the user does not trust it.
        TrackingError: it is missing, or the server is unreachable.
    """
    run_id, folder = loaded.record.run_id, run_dir(loaded.record.run_id)
    if kept_references(loaded.config):
        if not folder.source.is_dir():
            artifacts.download(loaded.client, run_id, folder.source.name, folder.path)
        what = f"the {own_code_of(loaded.config)} of run {run_id}"
        require_trust(folder.source, what, loaded.trust)
    return folder.source


def scoring_of(loaded: Loaded) -> Scoring:
    """What scores the run's model: its task, and the user's own loss and metrics as recorded.

    Raises:
        TrustError, TrackingError: as in `own_source`.
        ModelError: the recorded code has no such function.
    """
    task, config, targets = by_name(loaded.spec.task), loaded.config, loaded.spec.target_columns
    if not own_references(config).keys() - {"optimizer"}:
        return scoring(config, task, targets, OwnParts())
    return recorded_scoring(config, task, targets, own_source(loaded))


def stored_file(loaded: Loaded, path: str) -> Path:
    """The local file of an artifact in the run's folder; its folder is downloaded if missing.

    Raises:
        TrackingError: no such artifact, or the server is unreachable.
    """
    folder = run_dir(loaded.record.run_id).path
    if not (folder / path).is_file():
        parent = Path(path).parent.name
        artifacts.download(loaded.client, loaded.record.run_id, parent, folder)
    return folder / path


def _epoch(model: LoggedModel, what: str) -> int:
    text = str(model.tags.get(tags.EPOCH))
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CheckpointError(f"{what}: its tag {tags.EPOCH} is damaged: not a number of epochs")
    return int(text)
