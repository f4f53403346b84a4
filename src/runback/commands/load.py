"""What is read back from a run by its ID: the module, its scores, its predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from runback.commands.train import require_fingerprint, with_data
from runback.config import TrainConfig
from runback.data.split import Split, split_from_json
from runback.data.table import read_table
from runback.errors import UsageError
from runback.model.serving import Predictor
from runback.model.spec import ModelSpec, load_built
from runback.storage.journal import Journal
from runback.storage.paths import run_dir
from runback.tasks import regression
from runback.tracking import connection, registry, runs
from runback.tracking.runs import RunInfo
from runback.training.device import choose_device
from runback.user_code import UserClass

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Loaded:
    """A run's model in eval mode, and what it was trained with.

    Attributes:
        own: the user's code behind the module, if any.
        folder: the downloaded model folder, which lasts as long as `loaded` does.
    """

    client: MlflowClient
    info: RunInfo
    module: nn.Module
    spec: ModelSpec
    own: UserClass | None
    folder: Path
    epoch: int


def load_model(run: str, device: str = "cpu") -> nn.Module:
    """The module that a run registered, with its weights, in eval mode.

    For a notebook, on any machine that reaches the tracking server:

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
        device: as the option `device`; a model trained on a GPU loads on the CPU and back.

    Returns:
        A module that takes raw feature columns, `[n, n_features]` in the run's dtype (float32
        unless the run used float64), and gives `[n, n_targets]`.

    Raises:
        RunNotFoundError: no such run, or it has no model yet.
        TrackingError: the server is away.
        ModelError, CheckpointError: the model is damaged, or was tampered with.
    """
    with loading(run, device) as loaded:
        return loaded.module


def predict(run: str, frame: pd.DataFrame, device: str = "cpu") -> pd.DataFrame:
    """Predictions for a frame's rows: one column for each target, the frame's index.

    Args:
        run: in any form that names a run.
        frame: at least the feature columns, in any order.
        device: as the option `device`.

    Raises:
        DataError: a feature column is missing, or a cell is not a finite number.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
    """
    with loading(run, device) as loaded:
        values = Predictor(loaded.module, loaded.spec).values(frame)
        return pd.DataFrame(values, columns=list(loaded.spec.targets), index=frame.index)


def evaluate(run: str, data: str | None = None) -> dict[str, Any]:
    """Scores a run's model on the run's own test rows, or on another table.

    The scores of the run's own rows become its `test_...` metrics where it has none yet; scoring
    twice adds nothing.

    Args:
        run: in any form that names a run.
        data: a table with the run's features and targets; all its rows are scored.

    Returns:
        `run_id`, `epoch` of the weights, `data`, `rows`, and the scores.

    Raises:
        DataError: the run's table has changed since, or `data` does not fit.
        UsageError: the run's split has no test rows.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
    """
    with loading(run) as loaded:
        if data is not None:
            return score(loaded, data)
        result = score(loaded)
        _record(loaded, result["scores"])
        return result


@contextmanager
def loading(run: str, device: str = "cpu") -> Iterator[Loaded]:
    """Downloads and rebuilds a model; its files are gone when the block ends, the module stays.

    Raises:
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
    """
    chosen = choose_device(device)
    client = connection.connect()
    info = runs.find_run(client, run)
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        path = registry.download_model(client, info, Path(folder))
        built = load_built(path, chosen)
        epoch = _epoch(client, info)
        yield Loaded(client, info, built.module, built.spec, built.own, path, epoch)


def score(loaded: Loaded, data: str | None = None) -> dict[str, Any]:
    """The scores of a model on its run's own test rows, or on all rows of a table.

    Raises:
        DataError: the run's table has changed since, or `data` does not fit.
        UsageError: the run's split has no test rows.
    """
    if data is None:
        x, y, data = _test_rows(loaded, loaded.info.config)
    else:
        spec = loaded.spec
        table = read_table(data, spec.targets, spec.features, spec.torch_dtype)
        x, y = table.features, table.targets
    predicted = regression.predict_rows(loaded.module, x)
    found = regression.scores(predicted, y, loaded.info.config.loss)
    return {
        "run_id": loaded.info.run_id,
        "epoch": loaded.epoch,
        "data": data,
        "rows": len(x),
        "scores": found,
    }


def split_of(loaded: Loaded) -> Split:
    """The run's split, as it recorded it.

    Raises:
        TrackingError: the run has none, or the server is away.
        DataError: it cannot be rebuilt.
    """
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        stored = runs.read_json_artifact(
            loaded.client, loaded.info.run_id, "split.json", Path(folder)
        )
    return split_from_json(stored)


def _epoch(client: MlflowClient, info: RunInfo) -> int:
    model = registry.logged_model(client, info)
    return int(model.tags.get("runback.epoch", 0))


def _test_rows(loaded: Loaded, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor, str]:
    """The rows that the run held out, from the file it was trained on."""
    tags = loaded.info.tags
    config = with_data(config, tags, {})
    table = read_table(
        config.data, loaded.spec.targets, loaded.spec.features, loaded.spec.torch_dtype
    )
    require_fingerprint(table.fingerprint, tags, config.data)
    rows = split_of(loaded).test
    if not len(rows):
        raise UsageError(
            f"run {loaded.info.run_id}: split {config.split} has no test rows, so no test score "
            "exists; score another table with --data"
        )
    return table.features[rows], table.targets[rows], config.data


def _record(loaded: Loaded, found: dict[str, float]) -> None:
    """Adds test metrics that neither the run nor its journal has yet."""
    folder = run_dir(loaded.info.run_id)
    known = set(loaded.info.metrics)
    if folder.journal.exists():
        journal = Journal(folder.journal)
        known |= {point.key for point in journal.points_at(loaded.epoch)}
        journal.close()
    missing = {
        f"test_{name}": value for name, value in found.items() if f"test_{name}" not in known
    }
    if missing:
        runs.log_scores(loaded.client, loaded.info.run_id, missing, loaded.epoch)
