"""runback: train a PyTorch module, and get the run back by its ID.

    from runback import TrainConfig, train, resume, evaluate, predict, load_model

Names are imported on first use, so that `import runback` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runback.commands.evaluate import evaluate
    from runback.commands.load import load_model
    from runback.commands.predict import predict
    from runback.commands.train import resume, train
    from runback.config import TrainConfig

__version__ = "0.1.0"

__all__ = ["TrainConfig", "evaluate", "load_model", "predict", "resume", "train"]

_HOMES = {
    "TrainConfig": "runback.config",
    "train": "runback.commands.train",
    "resume": "runback.commands.train",
    "evaluate": "runback.commands.evaluate",
    "predict": "runback.commands.predict",
    "load_model": "runback.commands.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'runback' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
