"""Classes and functions given to `train` as objects: named by their files, sources collected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn, optim

from runback.config import TrainConfig, own_references
from runback.model.own_source import reference_of
from runback.user_code import (
    Sourced,
    copy_sources,
    import_class,
    import_function,
    is_user_defined,
    locate,
)


def name_objects(options: dict[str, Any], folder: Path) -> Path | None:
    """Replaces classes and functions among the options by their names.

    Args:
        options: of `train`, changed in place.
        folder: an existing folder, to which the sources of a script's definitions are written.

    Returns:
        The folder if a source was written to it, otherwise None.

    Raises:
        ModelError: an object cannot be used, or its source cannot be had.
    """
    for option in ("model", "loss", "optimizer"):
        if not isinstance(options.get(option, ""), str):
            options[option] = reference_of(options[option], option, folder)
    metrics = options.get("metrics", "")
    if not isinstance(metrics, str):
        listed = metrics if isinstance(metrics, list | tuple) else [metrics]
        options["metrics"] = [
            m if isinstance(m, str) else reference_of(m, "metrics", folder) for m in listed
        ]
    return folder if any(folder.iterdir()) else None


def collect_sources(config: TrainConfig, folder: Path) -> None:
    """Copies all own code that the options name to a folder that has the rest of it.

    Raises:
        ModelError: code cannot be imported, or two different files have the same name.
    """
    named = {"model": (config.model,), **own_references(config)}
    parts: list[Sourced] = [
        _imported(name, option)
        for option, names in named.items()
        for name in names
        if is_user_defined(name) and not _is_in(name, folder)
    ]
    copy_sources(parts, folder)


def _imported(name: str, option: str) -> Sourced:
    code = locate(name, option)
    if option in ("loss", "metrics"):
        return import_function(code, option)
    return import_class(code, optim.Optimizer if option == "optimizer" else nn.Module, option)


def _is_in(reference: str, folder: Path) -> bool:
    """Whether a file of a folder is named, without its path."""
    location = reference.rpartition(":")[0]
    return (
        location.endswith(".py")
        and Path(location).name == location
        and (folder / location).is_file()
    )
