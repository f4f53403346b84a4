"""Checkpoints with a manifest: written atomically, verified, and validated on load.

Each `checkpoint-NNNNNN.pt` has a manifest `checkpoint-NNNNNN.json` with the run, epoch, batch, size
and SHA-256, written after the checkpoint; a checkpoint without a manifest is ignored. torch loads
files with flipped bits without an error, so the digest is always checked.

The manifest has no digest of its own. Each field that determines what is resumed is compared with
something outside the manifest: `file`, `epoch` and `batch` with the manifest's name and the
checkpoint's content, `size` and `sha256` with the file, `run_id` and `config_sha256` with the run.
`versions` decides nothing; a resume says which of them have changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from runback.decoding import decode
from runback.errors import CheckpointError, first_line
from runback.stateful import Position
from runback.storage.atomic import make_folder, sha256_of, write_bytes

_NAME = re.compile(r"checkpoint-([0-9]{6,18})(?:-([0-9]{6,18}))?\.json")
_LONGEST_MANIFEST = 1 << 16


@dataclass(frozen=True)
class CheckpointKey:
    """The owner of a checkpoint: the run, and the digest of its configuration."""

    run_id: str
    config_sha256: str


@dataclass(frozen=True)
class Manifest:
    """The metadata of a checkpoint.

    Attributes:
        file: the checkpoint's name, without a folder.
        epoch: completed epochs.
        batch: completed batches of the next epoch; 0 between epochs.
        size: of the file, in bytes.
        sha256: of the file, in hexadecimal.
        run_id: of the run.
        config_sha256: of the run's configuration.
        versions: of torch, Python and runback, and what else the last bits of results depend on.
    """

    file: str
    epoch: int
    batch: int
    size: int
    sha256: str
    run_id: str
    config_sha256: str
    versions: dict[str, str]

    @property
    def position(self) -> Position:
        """The position in the training; the largest is the newest."""
        return Position(self.epoch, self.batch)

    @property
    def manifest_file(self) -> str:
        """The manifest's file name."""
        return manifest_name(self.file)

    def as_bytes(self) -> bytes:
        """The manifest as a JSON file."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            CheckpointError: the manifest is missing or damaged, or describes another file.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST_MANIFEST).decode()
            manifest = cls(**decode(json.loads, text))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: unreadable manifest ({error})") from None
        _check_fields(manifest, path)
        return manifest

    def check_key(self, key: CheckpointKey) -> None:
        """Checks that the checkpoint belongs to a run and its configuration.

        Raises:
            CheckpointError: it belongs to another run or configuration.
        """
        if self.run_id != key.run_id:
            raise CheckpointError(f"{self.file}: belongs to run {self.run_id}")
        if self.config_sha256 != key.config_sha256:
            raise CheckpointError(f"{self.file}: written with another configuration")


def checkpoint_name(epoch: int, batch: int = 0) -> str:
    """The file name for a position in the training."""
    inside = f"-{batch:06d}" if batch else ""
    return f"checkpoint-{epoch:06d}{inside}.pt"


def manifest_name(file: str) -> str:
    """The name of the manifest beside a checkpoint."""
    return file.removesuffix(".pt") + ".json"


def positions(names: Iterable[str]) -> list[Position]:
    """The positions of the manifests among `names`, the oldest first.

    Only names are read, so that the time to resume does not grow with the number of checkpoints;
    a manifest is compared with its name when it is read.
    """
    matches = filter(None, map(_NAME.fullmatch, names))
    return sorted({Position(int(match[1]), int(match[2] or 0)) for match in matches})


def local_positions(folder: Path) -> list[Position]:
    """`positions` of the files in a folder; empty if it does not exist."""
    return positions(file.name for file in folder.iterdir()) if folder.is_dir() else []


def write_checkpoint(
    folder: Path, state: dict[str, Any], key: CheckpointKey, versions: dict[str, str]
) -> Manifest:
    """Writes a checkpoint, verifies it by reading it back, then writes its manifest.

    Args:
        folder: of the checkpoints.
        state: tensors and plain values; `epoch` and `batch` are its position.
        key: stored in the manifest.
        versions: stored in the manifest.

    Raises:
        CheckpointError: the checkpoint cannot be written or verified; older ones are untouched.
    """
    make_folder(folder)
    path = folder / checkpoint_name(state["epoch"], state["batch"])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with buffer.getbuffer() as content:
        write_bytes(path, content)
        size, sha256 = len(content), _sha256(content)
    manifest = Manifest(
        file=path.name,
        epoch=state["epoch"],
        batch=state["batch"],
        size=size,
        sha256=sha256,
        run_id=key.run_id,
        config_sha256=key.config_sha256,
        versions=versions,
    )
    verify(folder, manifest)
    write_bytes(folder / manifest.manifest_file, manifest.as_bytes())
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Compares a checkpoint with its manifest.

    Raises:
        CheckpointError: the checkpoint is missing, or its size or digest differs.
    """
    path = folder / manifest.file
    try:
        is_intact = path.stat().st_size == manifest.size and sha256_of(path) == manifest.sha256
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if not is_intact:
        raise CheckpointError(f"{path}: damaged (size or SHA-256 differs from the manifest)")


def load_checkpoint(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Verifies a checkpoint and loads it to the CPU with `weights_only=True`.

    The caller checks the content other than the position.

    Raises:
        CheckpointError: the file is damaged, has another position than its manifest, or contains
            other objects than tensors and plain values.
    """
    verify(folder, manifest)
    path = folder / manifest.file
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle can raise nearly anything
        raise CheckpointError(
            f"{path}: refused as damaged or unsafe ({first_line(error)})"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a runback checkpoint")
    if (state.get("epoch"), state.get("batch")) != manifest.position:
        raise CheckpointError(f"{path}: its position differs from the manifest")
    return state


def _check_fields(manifest: Manifest, path: Path) -> None:
    """Checks the fields against each other and against the manifest's file name."""
    numbers = (manifest.epoch, manifest.batch, manifest.size)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise CheckpointError(f"{path}: epoch, batch or size is not a whole number")
    if manifest.file != checkpoint_name(manifest.epoch, manifest.batch):
        raise CheckpointError(f"{path}: describes another file, {manifest.file!r}")
    if manifest.manifest_file != path.name:
        raise CheckpointError(f"{path}: is the manifest of another file, {manifest.file!r}")


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
