"""Finds a run's newest good checkpoint, here or among its artifacts, and continues from it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.errors import CheckpointError, TrackingError
from runback.model.spec import load_weights
from runback.storage.atomic import make_folder, remove_leftovers
from runback.storage.checkpoints import (
    CheckpointKey,
    Manifest,
    Position,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
    positions,
)
from runback.storage.journal import Journal
from runback.storage.paths import RunDir
from runback.tracking.client import CourierClient
from runback.training.setup import TrainingSetup


@dataclass(frozen=True)
class Restored:
    """What a resumed training continues from.

    Attributes:
        manifest: of the checkpoint.
        uploaded: whether the run's artifacts have the checkpoint, as far as is known.
        lr: the last learning rate that was recorded; None before the first.
    """

    manifest: Manifest
    uploaded: bool
    lr: float | None


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may be resumed from; `remote` for the copy among the run's artifacts."""

    position: Position
    remote: bool


def restore(work: TrainingSetup, folder: RunDir, desk: CourierClient) -> Restored | None:
    """Loads the newest good checkpoint into `work.state`; None where the run has none.

    Damaged ones are skipped with a warning that names the file. Of two equally new ones the
    local file is tried first. No more of them are read than need be.

    Raises:
        ModelError: the weights do not fit the module; the leaf is named.
    """
    remove_leftovers(folder.checkpoints)
    owner = CheckpointKey(folder.run_id, work.config.identity())
    remote = _remote_positions(folder, desk)
    for candidate in _candidates(folder, remote):
        try:
            manifest, state = _load(candidate, folder, desk, owner)
            load_weights(work.state.model, state["model_state_dict"])
            _continue(work, state, manifest)
        except (CheckpointError, TrackingError) as error:
            say(f"warning: skipped {error}")
            continue
        finally:
            shutil.rmtree(folder.fetched, ignore_errors=True)
        return Restored(manifest, candidate.position in remote, state.get("lr"))
    return None


def catch_up(folder: RunDir, tags: dict[str, str], desk: CourierClient) -> int:
    """Takes over the run's published points where this machine's journal does not have them.

    That is so when the journal is new, or when the run has been resumed elsewhere since. It takes
    time in proportion to the history, as MLflow gives out histories whole; a journal that wrote
    the run's last points needs none of it.

    Returns:
        The last completed epoch.
    """
    with contextlib.closing(Journal(folder.journal)) as journal:
        identity, last = journal.identity(), journal.reached()
    if last and tags.get("runback.journal", identity) == identity:
        return last
    desk.ask("adopt", run_id=folder.run_id)
    with contextlib.closing(Journal(folder.journal)) as journal:
        return journal.reached()


def _remote_positions(folder: RunDir, desk: CourierClient) -> list[Position]:
    try:
        return positions(desk.ask("checkpoints", run_id=folder.run_id))
    except TrackingError as error:
        say(f"warning: only the local checkpoints count: {error}")
        return []


def _candidates(folder: RunDir, remote: list[Position]) -> list[_Candidate]:
    found = [_Candidate(position, False) for position in local_positions(folder.checkpoints)]
    found += [_Candidate(position, True) for position in remote]
    return sorted(found, key=lambda c: (c.position, not c.remote), reverse=True)


def _load(
    candidate: _Candidate, folder: RunDir, desk: CourierClient, owner: CheckpointKey
) -> tuple[Manifest, dict[str, Any]]:
    file = checkpoint_name(*candidate.position)
    if not candidate.remote:
        return _read(folder.checkpoints, file, owner)
    for name in (manifest_name(file), file):
        path = f"checkpoints/{name}"
        desk.ask("fetch", run_id=folder.run_id, path=path, folder=str(folder.fetched))
    manifest, state = _read(folder.fetched, file, owner)
    _keep(folder.fetched, folder.checkpoints, manifest)
    return manifest, state


def _read(folder: Path, file: str, owner: CheckpointKey) -> tuple[Manifest, dict[str, Any]]:
    manifest = Manifest.read(folder / manifest_name(file))
    manifest.check_key(owner)
    state = load_checkpoint(folder, manifest)
    if "model_state_dict" not in state:
        raise CheckpointError(f"{folder / file}: not a runback checkpoint")
    return manifest, state


def _continue(work: TrainingSetup, state: dict[str, Any], manifest: Manifest) -> None:
    try:
        work.state.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise CheckpointError(f"{manifest.file}: not a whole training state ({what})") from error


def _keep(fetched: Path, folder: Path, manifest: Manifest) -> None:
    """A fetched checkpoint becomes a local one: the file first, then its manifest."""
    make_folder(folder)
    for name in (manifest.file, manifest.manifest_file):
        (fetched / name).replace(folder / name)
