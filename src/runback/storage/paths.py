"""Where a run's local files lie: `RUNBACK_HOME` (default .runback)/<run_id>/."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runback.errors import UsageError


@dataclass(frozen=True)
class RunDir:
    """The local files of one run: a cache of what the run holds, and the outbox of what it lacks."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's ID, which is the folder's name."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """The SQLite file with everything to deliver."""
        return self.path / "journal.db"

    @property
    def lock(self) -> Path:
        """Held by the process that trains."""
        return self.path / "lock"

    @property
    def courier_lock(self) -> Path:
        """Held by the process that delivers."""
        return self.path / "courier.lock"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints and their manifests."""
        return self.path / "checkpoints"

    @property
    def fetched(self) -> Path:
        """Checkpoints on their way here from the run's artifacts, not yet verified."""
        return self.path / "fetched"

    @property
    def outbox(self) -> Path:
        """Other files to deliver: plots, split.json, environment."""
        return self.path / "outbox"

    @property
    def source(self) -> Path:
        """The code of a user's own module, as it was when the run began."""
        return self.path / "source"

    @property
    def model(self) -> Path:
        """The model folder to register."""
        return self.path / "model"


def home() -> Path:
    """The root of all run folders, absolute."""
    return Path(os.environ.get("RUNBACK_HOME") or ".runback").expanduser().absolute()


def require_home() -> None:
    """Makes the root of all run folders, before a run is made that would need it.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home()):
            pass
    except OSError as error:
        raise UsageError(f"RUNBACK_HOME {home()} cannot be used: {error.strerror}") from None


def run_dir(run_id: str) -> RunDir:
    """The folder of a run; created on use, not here.

    Raises:
        UsageError: an ID that is no plain name, and so might point out of the home folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", run_id):
        raise UsageError(f"{run_id!r} is not a run ID")
    return RunDir(home() / run_id)


def known_run_dirs() -> list[RunDir]:
    """The runs that have a journal here, oldest first."""
    journals = sorted(home().glob("*/journal.db"), key=lambda file: file.stat().st_mtime)
    return [RunDir(file.parent) for file in journals]
