"""runback: train PyTorch modules, and resume or load each run by its ID.

    from runback import TrainConfig, train, resume, evaluate, predict, load_model

Every command is a function of this module. Names are imported on first use to keep
`import runback` fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runback import processes as _processes  # noqa: F401  reads the folder before a program changes it
from runback.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    Interrupted,
    JournalError,
    MemoryShortError,
    ModelError,
    RebuildError,
    RunbackError,
    RunHeldError,
    RunNotFoundError,
    StorageError,
    TrackingError,
    TrustError,
    UsageError,
)

if TYPE_CHECKING:
    from runback.commands.compare import compare
    from runback.commands.evaluate import evaluate
    from runback.commands.export import export
    from runback.commands.fork import fork
    from runback.commands.load import load_model
    from runback.commands.predict import predict
    from runback.commands.promote import promote, rollback
    from runback.commands.reproduce import reproduce
    from runback.commands.resume import resume
    from runback.commands.run import run
    from runback.commands.runs import runs
    from runback.commands.show import show
    from runback.commands.sync import sync
    from runback.commands.train import train
    from runback.commands.ui import ui
    from runback.config import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "TrainConfig",
    "train",
    "run",
    "resume",
    "fork",
    "evaluate",
    "predict",
    "promote",
    "rollback",
    "export",
    "reproduce",
    "runs",
    "show",
    "compare",
    "ui",
    "sync",
    "load_model",
    "RunbackError",
    "UsageError",
    "ConfigError",
    "DataError",
    "ModelError",
    "RunNotFoundError",
    "TrustError",
    "TrackingError",
    "CheckpointError",
    "JournalError",
    "StorageError",
    "MemoryShortError",
    "DivergedError",
    "RebuildError",
    "RunHeldError",
    "Interrupted",
]

_MODULES = {
    "TrainConfig": "runback.config",
    "train": "runback.commands.train",
    "resume": "runback.commands.resume",
    "fork": "runback.commands.fork",
    "run": "runback.commands.run",
    "evaluate": "runback.commands.evaluate",
    "predict": "runback.commands.predict",
    "promote": "runback.commands.promote",
    "rollback": "runback.commands.promote",
    "export": "runback.commands.export",
    "reproduce": "runback.commands.reproduce",
    "runs": "runback.commands.runs",
    "show": "runback.commands.show",
    "compare": "runback.commands.compare",
    "ui": "runback.commands.ui",
    "sync": "runback.commands.sync",
    "load_model": "runback.commands.load",
}


# Public modules, which import a framework.
_FRAMEWORKS = ("lightning", "transformers")


def __getattr__(name: str) -> Any:
    if name in _FRAMEWORKS:
        return importlib.import_module(f"runback.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'runback' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    dunder = {name for name in globals() if name.startswith("__")}
    return sorted(dunder.union(__all__))
