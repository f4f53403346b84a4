"""A run's model, downloaded and rebuilt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from runback.model.spec import ModelSpec, load_built
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
        user_class: the user's code behind the module, if any.
        folder: the downloaded model folder, which lasts as long as `loaded` does.
    """

    client: MlflowClient
    info: RunInfo
    module: nn.Module
    spec: ModelSpec
    user_class: UserClass | None
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
        yield Loaded(client, info, built.module, built.spec, built.user_class, path, epoch)


def _epoch(client: MlflowClient, info: RunInfo) -> int:
    model = registry.logged_model(client, info)
    return int(model.tags.get("runback.epoch", 0))
