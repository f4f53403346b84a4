"""Restores a run from its newest valid checkpoint, local or among its artifacts."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runback.console.progress import say
from runback.errors import CheckpointError, JournalError, TrackingError, first_line
from runback.seeding import restore_generators
from runback.stateful import Position, Stateful
from runback.storage.atomic import make_folder, remove_leftovers
from runback.storage.checkpoints import (
    CheckpointKey,
    Manifest,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
    positions,
)
from runback.storage.journal import Journal
from runback.storage.paths import RunDir, is_lost_folder
from runback.tracking.client import CourierClient
from runback.tracking.messages import AdoptPoints, FetchArtifact, ListArtifacts
from runback.tracking.record import RunRecord

STATE_DICT = "_state_dict"
GENERATORS = "generators"


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint.

    Attributes:
        manifest: of the checkpoint.
        uploaded: whether the checkpoint is among the run's artifacts; False if unknown.
        values: its plain values.
    """

    manifest: Manifest
    uploaded: bool
    values: dict[str, Any]


@dataclass(frozen=True)
class CaughtUp:
    """What a run has recorded, after a comparison of its journal with the server.

    Attributes:
        epochs: the last one with all its points, here or on the server.
        may_have_checkpoints: whether a checkpoint may ever have been written; False only if the
            journal has recorded all of the run and knows of none.
        begun: the epoch at which a fork begins; 0 for other runs.
    """

    epochs: int
    may_have_checkpoints: bool
    begun: int = 0


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may be restored; `remote` if it is the copy among the artifacts."""

    position: Position
    remote: bool


def restore(
    folder: RunDir,
    key: CheckpointKey,
    kept: Mapping[str, Stateful],
    courier: CourierClient,
    recorded: int | None = None,
) -> Restored | None:
    """Loads the newest valid checkpoint into the kept objects; None if there is none.

    Damaged checkpoints are skipped with a warning that names the file. Of two copies the local one
    is tried first. Checkpoints of epochs after `recorded` are skipped, too: points before them are
    nowhere, and are recorded by training these epochs again.

    Raises:
        UsageError: an object rejects its state, such as weights that do not fit the module.
    """
    remove_leftovers(folder.checkpoints)
    remote = remote_positions(folder, courier)
    for candidate in _candidates(folder, remote):
        if recorded is not None and candidate.position.epoch > recorded:
            file = checkpoint_name(*candidate.position)
            say(f"warning: skipped {file}: points were recorded up to epoch {recorded} only")
            continue
        try:
            manifest, state = _load(candidate, folder, courier, key)
            values = load_into(kept, state, manifest)
        except (CheckpointError, TrackingError) as error:
            say(f"warning: skipped {error}")
            continue
        finally:
            shutil.rmtree(folder.fetched, ignore_errors=True)
        return Restored(manifest, candidate.position in remote, values)
    return None


def catch_up(folder: RunDir, record: RunRecord, courier: CourierClient) -> CaughtUp:
    """Adds the run's published points to the local journal if one is missing there.

    That is the case if the journal is new or an older copy, or if the run was resumed with another
    journal. The last point of each metric decides. The adoption downloads the whole metric history,
    as MLflow offers no filter. A damaged journal is replaced by a new one.
    """
    _set_aside_if_damaged(folder)
    with contextlib.closing(Journal(folder.journal)) as journal:
        is_its_own = (record.tags.journal or journal.identity()) == journal.identity()
        is_new = journal.reached() == 0 and not journal.has_posted("artifact")
        is_whole = is_its_own and not is_new and not journal.is_behind(record.last_points)
    # Also asked where nothing is missing here: the server may have lost points.
    if record.last_points or not is_whole:
        courier.ask(AdoptPoints(folder.run_id))
    with contextlib.closing(Journal(folder.journal)) as journal:
        knows_of_none = is_whole and not journal.has_posted("artifact", "checkpoints")
        begun = record.tags.fork.epoch if record.tags.fork else 0
        return CaughtUp(max(journal.reached(), begun), not knows_of_none, begun)


def _set_aside_if_damaged(folder: RunDir) -> None:
    """Renames a damaged journal; what it held undelivered is trained again."""
    try:
        with contextlib.closing(Journal(folder.journal)) as journal:
            return journal.check()
    except JournalError as error:
        aside = f"{folder.journal.name}.damaged-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            file = folder.journal.with_name(folder.journal.name + suffix)
            if file.exists():
                file.replace(file.with_name(aside + suffix))
        say(f"warning: {first_line(error)}; it is kept as {aside}, and a new journal is begun")


def missing_checkpoints(folder: RunDir, record: RunRecord, epochs: int) -> str:
    """The error for a trained run without a valid checkpoint: where it was looked for."""
    artifacts = f"among its artifacts ({_place(record.artifact_uri)})"
    if is_lost_folder(record.artifact_uri):
        artifacts += (
            ", which do not exist: the store has absolute paths, and its folder has been moved or "
            "deleted"
        )
    return (
        f"run {folder.run_id} has trained {epochs} epochs, but no valid checkpoint is in "
        f"{folder.checkpoints} or {artifacts}; restore one of these folders, or train again from "
        "epoch 0 with --from-scratch true"
    )


def _place(uri: str) -> str:
    """An artifact URI without user, password and query."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path or uri


def remote_positions(folder: RunDir, courier: CourierClient) -> list[Position]:
    try:
        return positions(courier.ask(ListArtifacts(folder.run_id, "checkpoints")))
    except TrackingError as error:
        say(f"warning: only local checkpoints are used: {error}")
        return []


def _candidates(folder: RunDir, remote: list[Position]) -> list[_Candidate]:
    candidates = [_Candidate(position, False) for position in local_positions(folder.checkpoints)]
    candidates += [_Candidate(position, True) for position in remote]
    return sorted(candidates, key=lambda c: (c.position, not c.remote), reverse=True)


def _load(
    candidate: _Candidate, folder: RunDir, courier: CourierClient, key: CheckpointKey
) -> tuple[Manifest, dict[str, Any]]:
    file = checkpoint_name(*candidate.position)
    if not candidate.remote:
        return _read(folder.checkpoints, file, key)
    for name in (manifest_name(file), file):
        courier.ask(FetchArtifact(folder.run_id, f"checkpoints/{name}", str(folder.fetched)))
    manifest, state = _read(folder.fetched, file, key)
    _move(folder.fetched, folder.checkpoints, manifest)
    return manifest, state


def _read(folder: Path, file: str, key: CheckpointKey) -> tuple[Manifest, dict[str, Any]]:
    manifest = Manifest.read(folder / manifest_name(file))
    manifest.check_key(key)
    return manifest, load_checkpoint(folder, manifest)


def load_into(
    kept: Mapping[str, Stateful], state: dict[str, Any], manifest: Manifest
) -> dict[str, Any]:
    """Restores each object and the generators; returns the other values.

    Raises:
        CheckpointError: the state of an object is missing or does not fit.
    """
    rest = dict(state)
    try:
        for name, target in kept.items():
            target.load_state_dict(rest.pop(name + STATE_DICT))
        restore_generators(rest.pop(GENERATORS))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{manifest.file}: incomplete training state ({cause})") from error
    return rest


def _move(fetched: Path, folder: Path, manifest: Manifest) -> None:
    """Moves a downloaded checkpoint to the local ones: the file first, then its manifest."""
    make_folder(folder)
    for name in (manifest.file, manifest.manifest_file):
        (fetched / name).replace(folder / name)
