"""Checkpoints that are whole, verified, and chosen by what their manifest says.

Beside each `checkpoint-NNNNNN.pt` lies a manifest `checkpoint-NNNNNN.json` with the run, epoch,
batch, size and SHA-256, written after the file that it describes; a checkpoint without its manifest
does not count. torch loads files with flipped bits without an error: only the digest tells.

The manifest needs no digest of itself. Each field that decides what is resumed is compared with
something outside the manifest: `file`, `epoch` and `batch` with the manifest's own name and with
the checkpoint's content, `size` and `sha256` with the file, `run_id` and `config_sha256` with the
run. Only `versions` is compared with nothing; it is information for people.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from runback.errors import CheckpointError, first_line
from runback.storage.atomic import make_folder, sha256_of, write_bytes

_NAME = re.compile(r"checkpoint-([0-9]{6,18})(?:-([0-9]{6,18}))?\.json")
_LONGEST_MANIFEST = 1 << 16


class Position(NamedTuple):
    """A point in the training; a larger one is later.

    Attributes:
        epoch: epochs completed.
        batch: batches done inside the next epoch, 0 between epochs.
    """

    epoch: int
    batch: int


@dataclass(frozen=True)
class CheckpointKey:
    """Whose checkpoints these are: the run, and the digest of the configuration it trains with."""

    run_id: str
    config_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        file: the checkpoint's name, without a folder.
        epoch: epochs completed.
        batch: batches done inside the next epoch, 0 between epochs.
        size: bytes.
        sha256: of the file.
        run_id: of the run that wrote it.
        config_sha256: of the run's configuration.
        versions: of torch, Python and runback.
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
        """Where in the training it was taken; the largest is the newest."""
        return Position(self.epoch, self.batch)

    @property
    def manifest_file(self) -> str:
        """The manifest's own name."""
        return manifest_name(self.file)

    def as_bytes(self) -> bytes:
        """The manifest as a JSON file."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            CheckpointError: it is missing, damaged, or names a file outside its folder.
        """
        try:
            with path.open("rb") as file:
                manifest = cls(**json.loads(file.read(_LONGEST_MANIFEST)))
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: unreadable manifest ({error})") from None
        _check_fields(manifest, path)
        return manifest

    def check_key(self, owner: CheckpointKey) -> None:
        """Refuses the checkpoint of another run, or of another configuration.

        Raises:
            CheckpointError: it is.
        """
        if self.run_id != owner.run_id:
            raise CheckpointError(f"{self.file}: belongs to run {self.run_id}")
        if self.config_sha256 != owner.config_sha256:
            raise CheckpointError(f"{self.file}: written by another configuration")


def checkpoint_name(epoch: int, batch: int = 0) -> str:
    """The file name for a position in the training."""
    inside = f"-{batch:06d}" if batch else ""
    return f"checkpoint-{epoch:06d}{inside}.pt"


def manifest_name(file: str) -> str:
    """The name of the manifest beside a checkpoint."""
    return file.removesuffix(".pt") + ".json"


def positions(names: Iterable[str]) -> list[Position]:
    """The positions in the training that manifests among `names` speak of, the oldest first.

    A manifest is held to its name when it is read, so that the newest can be found without reading
    the others: the time to a resume does not grow with the number of checkpoints.
    """
    matches = filter(None, map(_NAME.fullmatch, names))
    found = {Position(int(match[1]), int(match[2] or 0)) for match in matches}
    return sorted(found)


def local_positions(folder: Path) -> list[Position]:
    """`positions` of the files in a folder, which need not exist."""
    return positions(file.name for file in folder.iterdir()) if folder.is_dir() else []


def write_checkpoint(
    folder: Path, state: dict[str, Any], owner: CheckpointKey, versions: dict[str, str]
) -> Manifest:
    """Writes a checkpoint, reads it back from disk to verify it, and then writes its manifest.

    Args:
        folder: where to.
        state: tensors and plain values; `epoch` and `batch` give its position.
        owner: goes into the manifest.
        versions: goes into the manifest.

    Raises:
        CheckpointError: it cannot be written, or reads back differently; older ones are untouched.
    """
    make_folder(folder)
    path = folder / checkpoint_name(state["epoch"], state["batch"])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_bytes(path, content)
    manifest = Manifest(
        file=path.name,
        epoch=state["epoch"],
        batch=state["batch"],
        size=len(content),
        sha256=_sha256(content),
        run_id=owner.run_id,
        config_sha256=owner.config_sha256,
        versions=versions,
    )
    verify(folder, manifest)
    write_bytes(folder / manifest.manifest_file, manifest.as_bytes())
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Compares a checkpoint with its manifest.

    Raises:
        CheckpointError: it is missing, or its size or digest differs.
    """
    path = folder / manifest.file
    try:
        whole = path.stat().st_size == manifest.size and sha256_of(path) == manifest.sha256
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if not whole:
        raise CheckpointError(f"{path}: damaged (size or SHA-256 is not what its manifest says)")


def load_checkpoint(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Loads a verified checkpoint on the CPU; nothing in it is executed.

    What it holds besides its position is for the caller to check.

    Raises:
        CheckpointError: damaged, taken at another position, or it holds more than tensors and
            plain values.
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
        raise CheckpointError(f"{path}: taken at another position than its manifest says")
    return state


def _check_fields(manifest: Manifest, path: Path) -> None:
    """Compares the fields with each other and with the manifest's name."""
    numbers = (manifest.epoch, manifest.batch, manifest.size)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise CheckpointError(f"{path}: epoch, batch or size is not a whole number")
    if manifest.file != checkpoint_name(manifest.epoch, manifest.batch):
        raise CheckpointError(f"{path}: names another file, {manifest.file!r}")
    if manifest.manifest_file != path.name:
        raise CheckpointError(f"{path}: is the manifest of another file, {manifest.file!r}")


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
