"""The checkpoint with which a fork begins: found in another run, and kept with the new one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.errors import CheckpointError, TrackingError, UsageError
from runback.open_run.restore import STATE_DICT, load_into, remote_positions
from runback.open_run.run import Run
from runback.stateful import Stateful
from runback.storage.atomic import make_folder
from runback.storage.checkpoints import (
    Manifest,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
    verify,
)
from runback.storage.paths import RunDir, run_dir
from runback.tracking.client import CourierClient
from runback.tracking.messages import FetchArtifact
from runback.tracking.record import ForkTags, RunRecord

# In the run's folder and among its artifacts.
FORK = "fork"
# Characters of the changed options, as they are recorded.
MAX_CHANGES = 300
SHOWN, MAX_SHOWN = 10, 80


@dataclass(frozen=True)
class Start:
    """A verified checkpoint with which a fork begins, between two epochs.

    Attributes:
        run_id: of the run that wrote it.
        epoch: (or step) completed.
        folder: with the checkpoint and its manifest.
    """

    run_id: str
    epoch: int
    folder: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """The checkpoint and its manifest."""
        file = checkpoint_name(self.epoch)
        return self.folder / file, self.folder / manifest_name(file)


def find_start(record: RunRecord, at: int | None, courier: CourierClient, into: Path) -> Start:
    """Copies a checkpoint of a run into a folder; the run may be in training meanwhile.

    Args:
        record: of the run.
        at: the epoch (or step); None for the newest valid checkpoint.
        courier: downloads what is missing.
        into: the folder.

    Raises:
        UsageError: the run has no such checkpoint, or no valid one.
    """
    folder = run_dir(record.run_id)
    local = [position.epoch for position in local_positions(folder.checkpoints) if not position[1]]
    remote = [position.epoch for position in remote_positions(folder, courier) if not position[1]]
    epochs = sorted({*local, *remote}, reverse=True)
    if at is not None and at not in epochs:
        raise UsageError(f"option at: run {record.run_id} has {_listed(at, epochs)}")
    for epoch in epochs if at is None else [at]:
        start = Start(record.run_id, epoch, into)
        if epoch in local and _copied(start, folder):
            return start
        if epoch in remote and _downloaded(start, courier):
            return start
    which = f"epoch {at}" if at is not None else "any epoch"
    raise UsageError(f"run {record.run_id} has no valid checkpoint of {which} to be forked from")


def keep_start(run: Run, start: Start) -> None:
    """Adds the checkpoint to the files of a new run, which is then independent of the other."""
    folder = run.folder.path / FORK
    make_folder(folder)
    for file in start.files:
        shutil.copyfile(file, folder / file.name)
        run.post_file(folder / file.name, FORK)
    run.journal.reach(start.epoch)


def sentence(fork: ForkTags) -> str:
    """Where a fork begins, as a sentence in Markdown."""
    changed = f", with {fork.changed}" if fork.changed else ""
    return f"Fork of run `{fork.run_id}` after epoch {fork.epoch}{changed}."


def changes_text(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The options that differ, with both values; empty if none does."""
    names = [name for name in after if before.get(name) != after[name]]
    return ", ".join(
        f"{name} {_cut(before.get(name, ''))} -> {_cut(after[name])}" for name in names
    )[:MAX_CHANGES]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def kept_start(run: Run) -> Start:
    """The checkpoint that `keep_start` has added to a run, downloaded if it is not here.

    Raises:
        TrackingError: it is neither here nor among the run's artifacts.
        CheckpointError: it is damaged.
    """
    assert run.record is not None and run.record.tags.fork is not None
    fork = run.record.tags.fork
    start = Start(fork.run_id, fork.epoch, run.folder.path / FORK)
    try:
        _check(start)
    except CheckpointError:
        run.fetch(FORK)
        _check(start)
    return start


def load_start(start: Start, kept: Mapping[str, Stateful]) -> dict[str, Any]:
    """Loads the checkpoint into objects by name, and the generators; returns its plain values.

    Raises:
        CheckpointError: it is damaged.
        UsageError: an object rejects its state, such as weights that do not fit, or has none.
    """
    manifest = _check(start)
    state = load_checkpoint(start.folder, manifest)
    for name in kept:
        if name + STATE_DICT not in state:
            has = [key.removesuffix(STATE_DICT) for key in state if key.endswith(STATE_DICT)]
            raise UsageError(
                f"run {start.run_id}: its checkpoint of epoch {start.epoch} has no state of {name!r}, "
                f"only of {', '.join(has) or 'nothing'}"
            )
    values = load_into(kept, state, manifest)
    return {name: value for name, value in values.items() if not name.endswith(STATE_DICT)}


def _listed(at: int, epochs: list[int]) -> str:
    """What a run has instead of a checkpoint."""
    if not epochs:
        return "no checkpoint between two epochs yet"
    shown = [str(epoch) for epoch in sorted(epochs, key=lambda epoch: abs(epoch - at))[:SHOWN]]
    most = "" if len(epochs) <= SHOWN else f" the nearest of {len(epochs)}:"
    return f"no checkpoint of epoch {at}; it has{most} {', '.join(sorted(shown, key=int))}"


def _copied(start: Start, folder: RunDir) -> bool:
    """Copies a local checkpoint; False if it is damaged, or was deleted meanwhile."""
    try:
        for file in start.files:
            shutil.copyfile(folder.checkpoints / file.name, file)
        _check(start)
    except (OSError, CheckpointError) as error:
        say(f"warning: skipped {error}")
        return False
    return True


def _downloaded(start: Start, courier: CourierClient) -> bool:
    """Downloads a checkpoint; False if that fails, or it is damaged."""
    try:
        for file in start.files:
            path = f"checkpoints/{file.name}"
            courier.ask(FetchArtifact(start.run_id, path, str(start.folder)))
        _check(start)
    except (TrackingError, CheckpointError) as error:
        say(f"warning: skipped {error}")
        return False
    return True


def _check(start: Start) -> Manifest:
    """The manifest of a verified checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another run.
    """
    _, file = start.files
    manifest = Manifest.read(file)
    if manifest.run_id != start.run_id:
        raise CheckpointError(f"{file}: belongs to run {manifest.run_id}")
    verify(start.folder, manifest)
    return manifest
