"""The name of a run: the model, the data, and the options that set it apart."""

from __future__ import annotations

import os
from pathlib import PurePath

from runback.config import TrainConfig, default_in, render
from runback.limits import MAX_RUN_NAME

# In the order of their weight; the first `MOST` that differ from the defaults are shown.
SHOWN = ("lr", "optimizer", "batch_size", "epochs", "weight_decay", "model_args", "split", "seed")
MOST = 2


def run_name(config: TrainConfig) -> str:
    """The option `name`, else MLFLOW_RUN_NAME, else for example "mlp diabetes lr=0.003"."""
    return (config.name or os.environ.get("MLFLOW_RUN_NAME", "") or _composed(config))[
        :MAX_RUN_NAME
    ]


def _composed(config: TrainConfig) -> str:
    values = {name: getattr(config, name) for name in SHOWN}
    others = [name for name, value in values.items() if value != default_in(config, name)]
    options = [f"{name}={render(values[name])}" for name in others[:MOST]]
    return " ".join([_short(config.model), _short(config.data), *options])


def _short(name: str) -> str:
    """A class without its module, a file without its folder and endings."""
    own = name.rpartition(":")[2]
    return PurePath(own).name.partition(".")[0] or own
