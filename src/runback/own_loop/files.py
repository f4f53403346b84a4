"""Files and figures of a user's loop, as artifacts of its run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from runback.errors import UsageError
from runback.limits import artifact_path_problem
from runback.open_run.run import Run
from runback.storage.atomic import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = "plots"


def keep_file(run: Run, source: Path, folder: str) -> None:
    """Adds a copy of a file to a run's artifacts; see `OwnRun.log_file`."""
    target = _target(run, folder, source.name)
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise UsageError(f"log_file: {source}: {error.strerror}") from None
    run.post_file(target, folder)


def keep_figure(run: Run, figure: Figure, name: str) -> None:
    """Adds a figure to a run's artifacts; see `OwnRun.log_figure`."""
    target = _target(run, PLOTS, name)
    try:
        figure.savefig(target)
    except ValueError as error:  # an unknown format
        raise UsageError(f"log_figure: {name}: {error}") from None
    run.post_file(target, PLOTS)


def _target(run: Run, folder: str, name: str) -> Path:
    """The file in the run's outbox.

    Raises:
        UsageError: the store would refuse the path, which also holds for one that leaves the folder.
    """
    path = f"{folder}/{name}" if folder else name
    if "/" in name or (problem := artifact_path_problem(path)):
        problem = "contains /" if "/" in name else problem
        raise UsageError(f"artifact {path!a}: the name {problem}")
    target = run.folder.outbox / "own" / path
    make_folder(target.parent)
    return target
