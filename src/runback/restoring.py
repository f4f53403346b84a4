"""Finds a run's newest good checkpoint, here or among its artifacts, and continues from it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.durable.checkpoints import Manifest, load_checkpoint, manifests
from runback.durable.home import RunFolder
from runback.errors import CheckpointError, TrackingError
from runback.models.spec import load_weights
from runback.preparation import Work
from runback.progress import say
from runback.tracking.desk import Desk


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be resumed from; `remote` where only the run's artifacts have it."""

    manifest: Manifest
    remote: bool


def restore(work: Work, folder: RunFolder, desk: Desk) -> Candidate | None:
    """Loads the newest good checkpoint into `work.state`; None where the run has none.

    Damaged ones are skipped with a warning that names the file. Of two equally new ones the
    local file is tried first.

    Raises:
        ModelError: the weights do not fit the module; the leaf is named.
    """
    for candidate in _candidates(folder, desk):
        try:
            state = _load(candidate, folder, desk, work.config.identity())
        except (CheckpointError, TrackingError) as error:
            say(f"warning: skipped {error}")
            continue
        load_weights(work.state.model, state["model_state_dict"])
        work.state.load_state_dict(state)
        return candidate
    return None


def _candidates(folder: RunFolder, desk: Desk) -> list[Candidate]:
    local = manifests(folder.checkpoints, lambda text: say(f"warning: {text}"))
    fetched = folder.path / "fetched"
    shutil.rmtree(fetched, ignore_errors=True)
    desk.ask("fetch_manifests", run_id=folder.run_id, folder=str(fetched))
    remote = manifests(fetched, lambda text: say(f"warning: {text}"))
    found = [Candidate(m, False) for m in local] + [Candidate(m, True) for m in remote]
    return sorted(found, key=lambda c: (c.manifest.place, not c.remote), reverse=True)


def _load(candidate: Candidate, folder: RunFolder, desk: Desk, identity: str) -> dict[str, Any]:
    manifest = candidate.manifest
    if manifest.config_sha256 != identity:
        raise CheckpointError(f"{manifest.file}: written by another configuration")
    if not candidate.remote:
        return load_checkpoint(folder.checkpoints, manifest)
    fetched = folder.path / "fetched"
    desk.ask(
        "fetch", run_id=folder.run_id, path=f"checkpoints/{manifest.file}", folder=str(fetched)
    )
    state = load_checkpoint(fetched, manifest)
    _keep(fetched, folder.checkpoints, manifest)
    return state


def _keep(fetched: Path, folder: Path, manifest: Manifest) -> None:
    """A fetched checkpoint becomes a local one: the file first, then its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (manifest.file, manifest.manifest_file):
        (fetched / name).replace(folder / name)
