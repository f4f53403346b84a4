"""Checks of a command's arguments before torch is imported, which takes seconds.

The commands repeat them: they are also functions, and a file can disappear meanwhile.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runback.commands.source_check import check_sources
from runback.config import MODEL_NAMES, TrainConfig, own_references
from runback.data.files import existing, is_dataset
from runback.errors import DataError, ModelError, UsageError
from runback.tracking.run_forms import require_form
from runback.user_code import is_user_defined, locate, unknown_model

# In `commands.export`.
EXPORT_FORMATS = ("state_dict", "torch", "pt2", "onnx")


def check_training(config: TrainConfig) -> None:
    """Checks that the table and the user's own code of a new training exist.

    Raises:
        DataError: no such file.
        ModelError: an unknown model, no such file or Python module, or as in `check_sources`.
    """
    _check_data(config.data)
    if is_user_defined(config.model):
        locate(config.model)
    elif config.model not in MODEL_NAMES:
        raise unknown_model(config.model, MODEL_NAMES)
    for option, references in own_references(config).items():
        for reference in references:
            locate(reference, option)
    check_sources(config)


def check_export(name: str, output: str) -> Path:
    """Checks the format of an export; returns the path of its file.

    Raises:
        UsageError: the format is none of `EXPORT_FORMATS`, the file exists, or its folder does not.
    """
    if name not in EXPORT_FORMATS:
        raise UsageError(f"--format {name}: not one of {', '.join(EXPORT_FORMATS)}")
    return check_new_file(output)


def check_new_file(output: str) -> Path:
    """Checks the option `output`; returns the path of the file.

    Raises:
        UsageError: the file exists, or its folder does not.
    """
    target = Path(output).expanduser()
    if target.exists():
        raise UsageError(f"--output {output}: exists already; use another file name")
    if not target.parent.is_dir():
        raise UsageError(f"--output {output}: no such folder {target.parent}")
    return target


def check_stored(run: str, data: str = "") -> None:
    """Checks that a table or a dataset, if one is given, and a run exist.

    It asks the tracking server, and so it imports mlflow, but not torch.

    Raises:
        DataError: no such file.
        RunNotFoundError: no run matches, or more than one.
        TrackingError: the server is unreachable.
    """
    if data:
        _check_data(data)
    require_form(run)
    from runback.tracking.connection import connect
    from runback.tracking.find_run import find_run

    find_run(connect(), run)


def _check_data(data: str) -> None:
    """Checks that a table, or the file or module of a dataset, exists."""
    if not is_dataset(data):
        existing(data)
        return
    try:
        locate(data, "data")
    except ModelError as error:
        raise DataError(str(error)) from None


def run_to_resume(run: str) -> str:
    """RUN or, if it is empty, the run in MLFLOW_RUN_ID.

    Raises:
        RunNotFoundError: it has none of the forms of RUN.
    """
    name = run or os.environ.get("MLFLOW_RUN_ID", "")
    require_form(name)
    return name


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Imports a module on a thread while the block waits for something else."""
    thread = threading.Thread(
        target=importlib.import_module, args=(module,), name="import", daemon=True
    )
    thread.start()
    yield
    thread.join()
