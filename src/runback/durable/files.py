"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from runback.errors import CheckpointError


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file by temp file in the same folder, fsync, rename, fsync of the folder.

    The old file, if any, survives every failure (Pillai et al., OSDI 2014, on why each step).

    Raises:
        CheckpointError: the disk is full, or the file cannot be written; what is full is named.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns ENOSPC into RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {_reason(error, path)}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomically` for bytes that are at hand."""
    write_atomically(path, lambda file: _write_all(file, content))


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


def _write_all(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _reason(error: Exception, path: Path) -> str:
    """The system's own words; where torch hid them, whether the disk is full."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    free = os.statvfs(path.parent)
    if free.f_bavail * free.f_frsize < 1 << 20:
        return f"no space left on the disk that holds {path.parent}"
    return str(error).splitlines()[0]
