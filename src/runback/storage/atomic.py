"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from runback.errors import CheckpointError, StorageError

_TEMPORARY = ".tmp"
# No room: on the disk, in the quota, or under the process's own file size limit.
_FULL = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up on the disk",
    errno.EFBIG: "the file size limit (ulimit -f) is reached on the disk",
}
# torch's zip writer hides the system's error behind a RuntimeError that names its own source file.
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container")
_LITTLE = 1 << 20


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file by temp file in the same folder, fsync, rename, fsync of the folder.

    The old file, if any, survives every failure (Pillai et al., OSDI 2014, on why each step).

    Raises:
        CheckpointError: the disk is full, or the file cannot be written; what is full is named.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be written: {reason(error, path)}") from error
    finally:  # also where `write` itself refuses, or is interrupted
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`write_atomically` for bytes that are at hand."""
    write_atomically(path, lambda file: _write_all(file, content))


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, so that they too survive a power cut.

    Raises:
        CheckpointError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be made: {reason(error, path)}") from error


def remove_leftovers(folder: Path) -> None:
    """Deletes the temp files of writes that never ended; the caller holds the run's lock."""
    for file in folder.glob(f".*{_TEMPORARY}"):
        file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Turns the many shapes of a full disk into one sentence that says what is full.

    Raises:
        StorageError: a write inside the block found no room; other errors pass unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _is_full(error, folder):
            raise StorageError(f"{folder} cannot be written: {reason(error, folder)}") from error
        raise


def reason(error: Exception, path: Path) -> str:
    """Why a write failed, in words; where torch hid it, by a look at the disk."""
    if isinstance(error, OSError) and error.errno not in _FULL:
        return str(error.strerror or error)
    if not _is_full(error, path):
        return str(error).splitlines()[0]
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    return f"{_FULL[number or errno.ENOSPC]} that holds {path.parent}; free some and resume the run"


def _is_full(error: Exception, path: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    free = os.statvfs(next(folder for folder in path.parents if folder.exists()))
    hidden = any(word in str(error) for word in _TORCH_WRITER)
    return hidden and free.f_bavail * free.f_frsize < _LITTLE


def _write_all(file: IO[bytes], content: bytes | memoryview) -> None:
    file.write(content)
