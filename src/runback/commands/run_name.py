"""The name of a run: the model, the data, and the options that set it apart."""

from __future__ import annotations

import os
from pathlib import PurePath

from runback.config import TrainConfig, default_in, render
from runback.limits import MAX_RUN_NAME
from runback.tracking.record import ForkTags

# In the order of their weight; the first `MOST` that differ from the defaults are shown.
SHOWN = ("lr", "optimizer", "batch_size", "epochs", "weight_decay", "model_args", "split", "seed")
MOST = 2
SHORT_ID = 8


def run_name(config: TrainConfig, fork: ForkTags | None = None) -> str:
    """The option `name`, else MLFLOW_RUN_NAME, else for example "mlp diabetes lr=0.003".

    A fork is called "mlp diabetes lr=0.003 (fork of 1a2b3c4d after 20)".
    """
    given = config.name or os.environ.get("MLFLOW_RUN_NAME", "")
    return (given or _composed(config, fork))[:MAX_RUN_NAME]


def _composed(config: TrainConfig, fork: ForkTags | None) -> str:
    values = {name: getattr(config, name) for name in SHOWN}
    others = [name for name, value in values.items() if value != default_in(config, name)]
    options = [f"{name}={render(values[name])}" for name in others[:MOST]]
    begin = [f"(fork of {fork.run_id[:SHORT_ID]} after {fork.epoch})"] if fork else []
    return " ".join([_short(config.model), _short(config.data), *options, *begin])


def _short(name: str) -> str:
    """A class without its module, a file without its folder and endings."""
    own = name.rpartition(":")[2]
    return PurePath(own).name.partition(".")[0] or own
