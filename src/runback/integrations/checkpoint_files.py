"""The checkpoints that a framework writes, as artifacts of a run with manifests.

The files are data here: they are linked, hashed and uploaded, and never loaded. `checkpoints/NAME`
has beside it `checkpoints/NAME.manifest.json` with the step, the sizes and the SHA-256 of its files.
What the framework deletes is deleted from the artifacts, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.environment import versions
from runback.limits import artifact_path_problem
from runback.open_run.run import Run
from runback.storage.atomic import make_folder, sha256_of, write_bytes

CHECKPOINTS = "checkpoints"
MANIFEST = ".manifest.json"
# A fact of the journal: the checkpoints by their paths.
FACT = "framework_checkpoints"


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint, a file or a folder.

    Attributes:
        name: below the artifacts' folder "checkpoints".
        step: of the training.
        at: when it was modified, in ns since the epoch, and its size in bytes.
        files: size in bytes and SHA-256 of each file by its path below a folder; "" for a file.
    """

    name: str
    step: int
    at: list[int]
    files: dict[str, list[Any]]

    def is_intact(self, source: Path) -> bool:
        """Whether all files are as they were."""
        try:
            return all(
                (source / path).stat().st_size == size and sha256_of(source / path) == digest
                for path, (size, digest) in self.files.items()
            )
        except OSError:
            return False


class CheckpointFiles:
    """The checkpoints of a run whose sources are on this machine.

    Args:
        run: held or live; files are added to a live one only.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.known = {
            source: CheckpointFile(**content)
            for source, content in run.journal.fact(FACT, {}).items()
            if Path(source).exists()
        }

    def newest(self, folder: Path) -> tuple[Path, CheckpointFile] | None:
        """The intact checkpoint of the largest step in a folder; None if there is none."""
        here = [(Path(path), file) for path, file in self.known.items()]
        here = [(path, file) for path, file in here if path.parent == folder]
        for path, file in sorted(here, key=lambda one: one[1].step, reverse=True):
            if file.is_intact(path):
                return path, file
        return None

    def add(self, source: Path, step: int) -> None:
        """Adds a checkpoint to the outbox unless it is there already.

        Raises:
            CheckpointError, JournalError: it cannot be added.
        """
        source = source.absolute()
        state = source.stat()
        at, known = [state.st_mtime_ns, state.st_size], self.known.get(str(source))
        if known is not None and known.at == at:
            return None
        name = self._name(source)
        if problem := artifact_path_problem(f"{CHECKPOINTS}/{name}"):
            return say(f"warning: {source} is not among the run's artifacts: its name {problem}")
        self._run.journal.flush(durable=True)  # the metrics before the checkpoint
        files = {path: self._post(source, name, path) for path in _paths(source)}
        self.known[str(source)] = CheckpointFile(name, step, at, files)
        self._post_manifest(self.known[str(source)])
        return self._save()

    def mirror(self) -> None:
        """Deletes the artifacts of checkpoints whose sources were deleted."""
        gone = [source for source in self.known if not Path(source).exists()]
        for source in gone:
            self._delete(self.known.pop(source))
        if gone:
            self._save()

    def _save(self) -> None:
        content = {source: asdict(file) for source, file in self.known.items()}
        self._run.journal.set_fact(FACT, content)

    def _name(self, source: Path) -> str:
        """The name of the source, with its folder's if another source has it."""
        others = {file.name for path, file in self.known.items() if path != str(source)}
        return f"{source.parent.name}/{source.name}" if source.name in others else source.name

    def _post(self, source: Path, name: str, path: str) -> list[Any]:
        """Links a file into the run's folder and adds it to the outbox; its size and digest."""
        target = self._kept / name / path
        make_folder(target.parent)
        target.unlink(missing_ok=True)
        try:
            os.link(source / path, target)
        except OSError:  # another file system
            shutil.copyfile(source / path, target)
        size, digest = target.stat().st_size, sha256_of(target)
        self._post_file(target, digest)
        return [size, digest]

    def _post_manifest(self, file: CheckpointFile) -> None:
        described = {path: {"size": size, "sha256": digest} for path, (size, digest) in
                     file.files.items()}  # fmt: skip
        content: dict[str, Any] = {
            "name": file.name, "step": file.step, "files": described,
            "run_id": self._run.id, "versions": versions(),
        }  # fmt: skip
        target = self._kept / f"{file.name}{MANIFEST}"
        write_bytes(target, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        self._post_file(target, sha256_of(target))

    def _post_file(self, target: Path, digest: str) -> None:
        root = self._run.folder.path
        folder = target.parent.relative_to(self._kept.parent).as_posix()
        self._run.journal.post(
            "artifact", file=str(target.relative_to(root)), artifact_path=folder, sha256=digest
        )

    def _delete(self, file: CheckpointFile) -> None:
        names = [f"{file.name}/{path}".rstrip("/") for path in file.files]
        for name in dict.fromkeys([f"{file.name}{MANIFEST}", *names, file.name]):
            self._run.journal.post("delete", path=f"{CHECKPOINTS}/{name}")
            with contextlib.suppress(OSError):
                (self._kept / name).unlink(missing_ok=True)
        shutil.rmtree(self._kept / file.name, ignore_errors=True)

    @property
    def _kept(self) -> Path:
        """The links, with the same paths as the artifacts."""
        return self._run.folder.outbox / CHECKPOINTS


def _paths(source: Path) -> list[str]:
    """The paths of the files below a folder; "" for a file."""
    if source.is_file():
        return [""]
    return sorted(
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()
    )
