"""Checkpoints that are whole, verified, and chosen by what their manifest says.

Beside each `checkpoint-NNNNNN.pt` lies a manifest `checkpoint-NNNNNN.json` with the run, epoch,
batch, size and SHA-256, written after the file it speaks of; a checkpoint without its manifest does
not count. torch loads files with flipped bits without a word: only the digest tells. The manifest
ends in a digest of itself, so that a flipped bit in it tells as well.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import queue
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from runback.errors import CheckpointError, first_line
from runback.storage.atomic import make_folder, sha256_of, write_atomically, write_bytes

Position = tuple[int, int]

_NAME = re.compile(r"checkpoint-([0-9]{6,18})(?:-([0-9]{6,18}))?\.json")
_SEAL = "manifest_sha256"
_LONGEST_MANIFEST = 1 << 16


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
        return self.epoch, self.batch

    @property
    def manifest_file(self) -> str:
        """The manifest's own name."""
        return manifest_name(self.file)

    def as_bytes(self) -> bytes:
        """The manifest's one and only form as a file, sealed with its own digest."""
        content = asdict(self)
        seal = _sha256(json.dumps(content, sort_keys=True).encode())
        return (json.dumps({**content, _SEAL: seal}, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            CheckpointError: it is missing, damaged, or names a file outside its folder.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_LONGEST_MANIFEST)
            values = json.loads(content)
            del values[_SEAL]
            manifest = cls(**values)
            sealed = manifest.as_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{path}: unreadable manifest ({error})") from None
        if sealed != content:
            raise CheckpointError(f"{path}: damaged manifest (its own digest does not fit)")
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
    found = {(int(match[1]), int(match[2] or 0)) for match in matches}
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
        state: tensors and plain values, with `epoch` and `batch`.
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
    write_atomically(path, lambda file: _copy(file, content))
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

    Raises:
        CheckpointError: damaged, or it holds more than tensors and plain values.
    """
    verify(folder, manifest)
    path = folder / manifest.file
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle can raise nearly anything
        raise CheckpointError(
            f"{path}: refused as damaged or unsafe ({first_line(error)})"
        ) from None
    if not isinstance(state, dict) or "model_state_dict" not in state:
        raise CheckpointError(f"{path}: not a runback checkpoint")
    if (state.get("epoch"), state.get("batch")) != manifest.position:
        raise CheckpointError(f"{path}: taken at another position than its manifest says")
    return state


class Retention:
    """The checkpoints of a run, and which of them may go.

    All of those between epochs are kept, or the newest `keep`; those inside an epoch only while
    they are among the newest two, as they are there to resume from, not for the record. Two that
    verify always stay. The best weights need no file of their own: every checkpoint holds them
    beside its own.

    Args:
        folder: the checkpoints' folder.
        owner: of the checkpoints; those of another do not count as good.
        keep: how many of those between epochs to keep; 0 keeps all.
    """

    def __init__(self, folder: Path, owner: CheckpointKey, keep: int) -> None:
        self.folder, self.owner, self.keep = folder, owner, keep
        found = local_positions(folder)
        self._between = [position for position in found if not position[1]]
        self._inside = [position for position in found if position[1]]

    def add(self, manifest: Manifest, note: Callable[[str], None] = lambda _: None) -> list[str]:
        """Counts in a checkpoint just written; deletes what may go, and returns its file names.

        Args:
            manifest: of the checkpoint.
            note: told each file's name before it is deleted, so that whoever misses it knows why.
        """
        row, position = self._row(manifest.position), manifest.position
        index = bisect.bisect_left(row, position)
        if row[index : index + 1] != [position]:
            row.insert(index, position)
        surplus = self._surplus()
        good = self._two_good() if surplus else []
        gone = [position for position in surplus if position not in good] if len(good) == 2 else []
        names = [name for position in gone for name in _names(position)]
        for name in names:
            note(name)
        for position in gone:
            self._delete(position)
        return names

    def _surplus(self) -> list[Position]:
        newest = sorted(self._between[-2:] + self._inside[-2:])[-2:]
        old = self._between[: -max(self.keep, 2)] if self.keep else []
        return [position for position in old + self._inside if position not in newest]

    def _two_good(self) -> list[Position]:
        good: list[Position] = []
        for position in sorted(self._between + self._inside, reverse=True):
            if len(good) < 2 and self._verifies(position):
                good.append(position)
        return good

    def _verifies(self, position: Position) -> bool:
        try:
            path = self.folder / manifest_name(checkpoint_name(*position))
            manifest = Manifest.read(path)
            manifest.check_key(self.owner)
            verify(self.folder, manifest)
        except CheckpointError:
            return False
        return True

    def _delete(self, position: Position) -> None:
        self._row(position).remove(position)
        for name in _names(position):
            with contextlib.suppress(OSError):  # a file that cannot be deleted does no harm
                (self.folder / name).unlink(missing_ok=True)

    def _row(self, position: Position) -> list[Position]:
        return self._inside if position[1] else self._between


def _names(position: Position) -> list[str]:
    """The files of a checkpoint, the manifest first: a file without one does not count."""
    file = checkpoint_name(*position)
    return [manifest_name(file), file]


class CheckpointWriter:
    """Writes checkpoints on a thread of its own, one at a time, in order.

    `submit` takes a state that nobody changes any more (`TrainState.state_dict`), so the loop
    stands still for the copy only. A failure is raised at the next `submit` or `wait`.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._jobs: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, state: dict[str, Any]) -> None:
        """Hands over a state; waits while an earlier one is still being written."""
        self._jobs.join()
        self._raise()
        self._jobs.put(state)

    def wait(self) -> None:
        """Returns when everything submitted is on disk."""
        self._jobs.join()
        self._raise()

    def close(self) -> None:
        """Ends the thread after what was submitted; raises nothing."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (state := self._jobs.get()) is not None:
            try:
                self._write(state)
            except BaseException as error:
                self._error = error
            finally:
                del state
                self._jobs.task_done()
        self._jobs.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _check_fields(manifest: Manifest, path: Path) -> None:
    """A manifest may be whole and still lie."""
    numbers = (manifest.epoch, manifest.batch, manifest.size)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise CheckpointError(f"{path}: epoch, batch or size is not a whole number")
    if manifest.file != checkpoint_name(manifest.epoch, manifest.batch):
        raise CheckpointError(f"{path}: names another file, {manifest.file!r}")
    if manifest.manifest_file != path.name:
        raise CheckpointError(f"{path}: is the manifest of another file, {manifest.file!r}")


def _copy(file: Any, content: memoryview) -> None:
    file.write(content)


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
