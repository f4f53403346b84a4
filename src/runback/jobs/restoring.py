"""Finds a run's newest good checkpoint, here or among its artifacts, and continues from it."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.durable.checkpoints import (
    Manifest,
    Owner,
    Place,
    checkpoint_name,
    load_checkpoint,
    local_places,
    manifest_name,
    places,
)
from runback.durable.files import make_folder, remove_leftovers
from runback.durable.home import RunFolder
from runback.durable.journal import Journal
from runback.errors import CheckpointError, TrackingError
from runback.jobs.preparation import Work
from runback.models.spec import load_weights
from runback.progress import say
from runback.tracking.desk import Desk


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

    place: Place
    remote: bool


def restore(work: Work, folder: RunFolder, desk: Desk) -> Restored | None:
    """Loads the newest good checkpoint into `work.state`; None where the run has none.

    Damaged ones are skipped with a warning that names the file. Of two equally new ones the
    local file is tried first. No more of them are read than need be.

    Raises:
        ModelError: the weights do not fit the module; the leaf is named.
    """
    remove_leftovers(folder.checkpoints)
    owner = Owner(folder.run_id, work.config.identity())
    remote = _remote_places(folder, desk)
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
        return Restored(manifest, candidate.place in remote, state.get("lr"))
    return None


def catch_up(folder: RunFolder, tags: dict[str, str], desk: Desk) -> int:
    """Takes over the run's published points where this machine's journal does not have them.

    That is so when the journal is new, or when the run has been resumed elsewhere since. It takes
    time in proportion to the history, as MLflow gives out histories whole; a journal that wrote
    the run's last points needs none of it.

    Returns:
        The last epoch with a recorded cost.
    """
    with contextlib.closing(Journal(folder.journal)) as journal:
        identity, last = journal.identity(), journal.last_step()
    if last and tags.get("runback.journal", identity) == identity:
        return last
    desk.ask("adopt", run_id=folder.run_id)
    with contextlib.closing(Journal(folder.journal)) as journal:
        return journal.last_step()


def _remote_places(folder: RunFolder, desk: Desk) -> list[Place]:
    try:
        return places(desk.ask("checkpoints", run_id=folder.run_id))
    except TrackingError as error:
        say(f"warning: only the local checkpoints count: {error}")
        return []


def _candidates(folder: RunFolder, remote: list[Place]) -> list[_Candidate]:
    found = [_Candidate(place, False) for place in local_places(folder.checkpoints)]
    found += [_Candidate(place, True) for place in remote]
    return sorted(found, key=lambda c: (c.place, not c.remote), reverse=True)


def _load(
    candidate: _Candidate, folder: RunFolder, desk: Desk, owner: Owner
) -> tuple[Manifest, dict[str, Any]]:
    file = checkpoint_name(*candidate.place)
    if not candidate.remote:
        return _read(folder.checkpoints, file, owner)
    for name in (manifest_name(file), file):
        path = f"checkpoints/{name}"
        desk.ask("fetch", run_id=folder.run_id, path=path, folder=str(folder.fetched))
    manifest, state = _read(folder.fetched, file, owner)
    _keep(folder.fetched, folder.checkpoints, manifest)
    return manifest, state


def _read(folder: Path, file: str, owner: Owner) -> tuple[Manifest, dict[str, Any]]:
    manifest = Manifest.read(folder / manifest_name(file))
    manifest.check_owner(owner)
    return manifest, load_checkpoint(folder, manifest)


def _continue(work: Work, state: dict[str, Any], manifest: Manifest) -> None:
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
