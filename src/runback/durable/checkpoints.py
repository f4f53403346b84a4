"""Checkpoints that are whole, verified, and chosen by what their manifest says.

Beside each `checkpoint-NNNNNN.pt` lies a manifest `checkpoint-NNNNNN.json` with epoch, batch, size
and SHA-256, written after the file it speaks of; a checkpoint without its manifest does not count.
torch loads files with flipped bits without a word: only the digest tells.
"""

from __future__ import annotations

import hashlib
import io
import json
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from runback.durable.files import sha256_of, write_atomically, write_bytes
from runback.errors import CheckpointError

_NAME = re.compile(r"checkpoint-\d{6,}(-\d{6,})?\.pt")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        file: the checkpoint's name, without a folder.
        epoch: epochs completed.
        batch: batches done inside the next epoch, 0 between epochs.
        size: bytes.
        sha256: of the file.
        config_sha256: of the run's configuration.
        versions: of torch, Python and runback.
    """

    file: str
    epoch: int
    batch: int
    size: int
    sha256: str
    config_sha256: str
    versions: dict[str, str]

    @property
    def place(self) -> tuple[int, int]:
        """Where in the training it was taken; the largest is the newest."""
        return self.epoch, self.batch

    @property
    def manifest_file(self) -> str:
        """The manifest's own name."""
        return self.file.removesuffix(".pt") + ".json"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            CheckpointError: it is missing, damaged, or names a file outside its folder.
        """
        try:
            manifest = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: unreadable manifest ({error})") from None
        if not _NAME.fullmatch(str(manifest.file)) or manifest.manifest_file != path.name:
            raise CheckpointError(f"{path}: names another file, {manifest.file!r}")
        if not all(isinstance(n, int) for n in (manifest.epoch, manifest.batch, manifest.size)):
            raise CheckpointError(f"{path}: epoch, batch or size is not a whole number")
        return manifest


def checkpoint_name(epoch: int, batch: int = 0) -> str:
    """The file name for a place in the training."""
    inside = f"-{batch:06d}" if batch else ""
    return f"checkpoint-{epoch:06d}{inside}.pt"


def write_checkpoint(
    folder: Path, state: dict[str, Any], config_sha256: str, versions: dict[str, str]
) -> Manifest:
    """Writes a checkpoint, reads it back from disk to verify it, and then writes its manifest.

    Args:
        folder: where to.
        state: tensors and plain values, with `epoch` and `batch`.
        config_sha256: goes into the manifest.
        versions: goes into the manifest.

    Raises:
        CheckpointError: it cannot be written, or reads back differently; older ones are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
        sha256=_digest(content),
        config_sha256=config_sha256,
        versions=versions,
    )
    verify(folder, manifest)
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"
    write_bytes(folder / manifest.manifest_file, text.encode())
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Compares a checkpoint with its manifest.

    Raises:
        CheckpointError: it is missing, or its size or digest differs.
    """
    path = folder / manifest.file
    try:
        if path.stat().st_size != manifest.size or sha256_of(path) != manifest.sha256:
            raise CheckpointError(
                f"{path}: damaged (size or SHA-256 is not what its manifest says)"
            )
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None


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
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: refused as damaged or unsafe ({first})") from None
    if not isinstance(state, dict) or "model_state_dict" not in state:
        raise CheckpointError(f"{path}: not a runback checkpoint")
    return state


def manifests(folder: Path, warn: Callable[[str], None]) -> list[Manifest]:
    """All readable manifests of a folder, the newest first; unreadable ones are warned about."""
    found = []
    for path in folder.glob("checkpoint-*.json"):
        try:
            found.append(Manifest.read(path))
        except CheckpointError as error:
            warn(f"skipped {error}")
    return sorted(found, key=lambda manifest: manifest.place, reverse=True)


def prune(folder: Path, keep: int) -> list[Manifest]:
    """Deletes all but the newest checkpoints, never fewer than two that verify.

    Checkpoints inside an epoch are kept only while they are among the newest two: they are there
    to resume from, not for the record. The best weights need no file of their own: every
    checkpoint holds them beside its own.

    Args:
        folder: the checkpoints' folder.
        keep: how many of those between epochs to keep; 0 keeps all.

    Returns:
        The manifests of what was deleted.
    """
    newest = manifests(folder, lambda _: None)
    good: list[Manifest] = []
    for manifest in newest:
        if len(good) < 2 and _verifies(folder, manifest):
            good.append(manifest)
    if len(good) < 2:
        return []
    between = [m for m in newest if not m.batch]
    stays = {m.file for m in (between if keep == 0 else between[: max(keep, 2)])}
    stays |= {m.file for m in good}
    gone = [m for m in newest if m.file not in stays]
    for manifest in gone:  # the manifest first: a file without one does not count
        (folder / manifest.manifest_file).unlink(missing_ok=True)
        (folder / manifest.file).unlink(missing_ok=True)
    return gone


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


def _verifies(folder: Path, manifest: Manifest) -> bool:
    try:
        verify(folder, manifest)
    except CheckpointError:
        return False
    return True


def _copy(file: Any, content: memoryview) -> None:
    file.write(content)


def _digest(content: memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
