"""Atomic file writes that survive a power loss."""

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
# Errors for a full disk, an exhausted quota, and the process's file size limit.
_FULL = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is exceeded on the disk",
    errno.EFBIG: "the file size limit (ulimit -f) is reached on the disk",
}
# torch's zip writer replaces the OSError by a RuntimeError with one of these words.
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container")
_FULL_BYTES = 1 << 20  # less free space counts as a full disk


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file: temporary file in the same folder, fsync, rename, fsync of the folder.

    An existing file survives every failure (the steps follow Pillai et al., OSDI 2014).

    Raises:
        CheckpointError: the file cannot be written; a full disk is named.
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
    finally:  # also if `write` fails or is interrupted
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`write_atomically` for content in memory."""
    write_atomically(path, lambda file: _write_all(file, content))


def make_folder(path: Path) -> None:
    """Creates a folder and its parents; they survive a power loss.

    Raises:
        CheckpointError: the folder cannot be created.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be created: {reason(error, path)}") from error


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files of interrupted writes; the caller holds the run's lock."""
    for file in folder.glob(f".*{_TEMPORARY}"):
        file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Syncs a folder to disk, so that a rename in it survives a power loss."""
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
    """Converts the errors of a full disk to one `StorageError`; other errors pass through.

    Raises:
        StorageError: a write inside the block failed because the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _is_full(error, folder):
            raise StorageError(f"{folder} cannot be written: {reason(error, folder)}") from error
        raise


def reason(error: Exception, path: Path) -> str:
    """Why a write failed; if torch hid the cause, the free space decides."""
    if isinstance(error, OSError) and error.errno not in _FULL:
        return str(error.strerror or error)
    if not _is_full(error, path):
        return str(error).splitlines()[0]
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    problem = _FULL[number or errno.ENOSPC]
    return f"{problem} that holds {path.parent}; free some space and resume the run"


def _is_full(error: Exception, path: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    free = os.statvfs(next(folder for folder in path.parents if folder.exists()))
    from_torch = any(word in str(error) for word in _TORCH_WRITER)
    return from_torch and free.f_bavail * free.f_frsize < _FULL_BYTES


def _write_all(file: IO[bytes], content: bytes | memoryview) -> None:
    file.write(content)
