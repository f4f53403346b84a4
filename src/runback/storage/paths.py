"""The local files of a run: `RUNBACK_HOME` (default .runback)/<run_id>/.

Until the tracking server has assigned an ID, they are in a *pending* directory, `new-<mark>`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runback.errors import StorageError, UsageError
from runback.storage.atomic import reason, sync_folder

_PENDING = re.compile(r"new-([0-9a-f]{32})")


@dataclass(frozen=True)
class RunDir:
    """The local files of one run: a cache of its artifacts, and the outbox."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's ID, which is the folder's name; invalid for a pending run."""
        return self.path.name

    @property
    def is_pending(self) -> bool:
        """Whether the run has no ID yet."""
        return _PENDING.fullmatch(self.path.name) is not None

    @property
    def mark(self) -> str:
        """The unique mark of a pending run, 32 hexadecimal digits; empty for a run with an ID."""
        match = _PENDING.fullmatch(self.path.name)
        return match[1] if match else ""

    @property
    def journal(self) -> Path:
        """The SQLite file of `storage.journal`."""
        return self.path / "journal.db"

    @property
    def lock(self) -> Path:
        """Locked by the training process."""
        return self.path / "lock"

    @property
    def courier_lock(self) -> Path:
        """Locked by the delivering process."""
        return self.path / "courier.lock"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints and their manifests."""
        return self.path / "checkpoints"

    @property
    def fetched(self) -> Path:
        """Checkpoints downloaded from the run's artifacts, not yet verified."""
        return self.path / "fetched"

    @property
    def outbox(self) -> Path:
        """Other files to deliver: plots, split.json, environment."""
        return self.path / "outbox"

    @property
    def source(self) -> Path:
        """The source files of the user's own code, copied when the run began."""
        return self.path / "source"

    @property
    def model(self) -> Path:
        """The model folder to register."""
        return self.path / "model"


def state_folder() -> Path | None:
    """The user's state folder, whatever RUNBACK_HOME is; None without a home directory.

    The XDG Base Directory Specification says to ignore a relative XDG_STATE_HOME.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return state / "runback"


def home() -> Path:
    """The root of all run folders, absolute."""
    return Path(os.environ.get("RUNBACK_HOME") or ".runback").expanduser().absolute()


def require_home() -> None:
    """Creates the root of all run folders.

    Raises:
        UsageError: it is not writable.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home()):
            pass
    except OSError as error:
        raise UsageError(f"RUNBACK_HOME {home()} cannot be used: {error.strerror}") from None


def run_dir(run_id: str) -> RunDir:
    """The folder of a run; it is not created here.

    Raises:
        UsageError: an invalid ID: a path, or the name of a pending directory.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", run_id) or _PENDING.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not a run ID")
    return RunDir(home() / run_id)


def pending_run_dir(mark: str = "") -> RunDir:
    """The folder of a pending run, with the given mark or a new one; it is not created here."""
    return RunDir(home() / f"new-{mark or uuid.uuid4().hex}")


def settle(pending: RunDir, run_id: str) -> RunDir:
    """Renames a pending run's folder to its run ID; locks in it stay held.

    The journal must be closed: SQLite opens its auxiliary files by path.

    Raises:
        StorageError: the folder cannot be renamed, or the run already has a journal here.
        UsageError: an invalid run ID.
    """
    final = run_dir(run_id)
    if final.journal.exists():
        raise StorageError(f"{final.path} cannot be created: it already contains a journal")
    try:
        pending.path.rename(final.path)
        sync_folder(final.path.parent)
    except OSError as error:
        raise StorageError(
            f"{pending.path} cannot be renamed to {final.path}: {reason(error, final.path)}"
        ) from error
    return final


def move_pending(pending: RunDir, run_id: str) -> None:
    """Moves a pending run's files to the folder of its run, in which only locks exist.

    The caller holds the locks of both. The journal is moved last: it makes the folder a run's.

    Raises:
        StorageError: a file cannot be moved.
    """
    final = run_dir(run_id)
    names = [file.name for file in pending.path.iterdir() if "lock" not in file.name]
    try:
        for name in sorted(names, key=lambda name: name.startswith(pending.journal.name)):
            (pending.path / name).rename(final.path / name)
        sync_folder(final.path)
    except OSError as error:
        raise StorageError(
            f"{pending.path} cannot be moved to {final.path}: {reason(error, final.path)}"
        ) from error
    shutil.rmtree(pending.path, ignore_errors=True)


def is_lost_folder(uri: str) -> bool:
    """Whether an artifact URI is an absolute local path that does not exist on this machine."""
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    return parts.scheme in ("", "file") and path.is_absolute() and not path.exists()


def key_lock(key: str) -> Path:
    """The file that is locked by the process that runs a key (`open_run.keys`)."""
    return home() / f"key-{hashlib.sha256(key.encode()).hexdigest()[:32]}.lock"


def known_run_dirs() -> list[RunDir]:
    """The runs with an ID that have a journal here, oldest first."""
    return [run for run in _with_journal() if not run.is_pending]


def pending_run_dirs() -> list[RunDir]:
    """The runs without an ID that have a journal here, oldest first."""
    return [run for run in _with_journal() if run.is_pending]


def _with_journal() -> list[RunDir]:
    """Oldest first by the journal's modification time; folders renamed meanwhile are skipped."""
    modified: dict[RunDir, float] = {}
    for file in home().glob("*/journal.db"):
        with contextlib.suppress(FileNotFoundError):
            modified[RunDir(file.parent)] = file.stat().st_mtime
    return sorted(modified, key=lambda run: modified[run])
