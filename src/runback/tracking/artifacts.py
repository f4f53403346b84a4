"""Lists and downloads the artifacts of a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from runback.decoding import decode
from runback.errors import TrackingError, first_line
from runback.tracking.connection import describe_error, repeated, request


def download(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    """Downloads one artifact of a run into `folder`.

    Raises:
        TrackingError: no such artifact, or the server is unreachable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(repeated(lambda: client.download_artifacts(run_id, path, str(folder))))
    except (MlflowException, OSError, ValueError) as error:
        raise TrackingError(f"run {run_id}: artifact {path!r}: {describe_error(error)}") from error


def list_names(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    """Names of the files in an artifact folder of a run.

    Raises:
        TrackingError: the server is unreachable.
    """
    entries = request(f"run {run_id}", lambda: client.list_artifacts(run_id, folder))
    return [Path(entry.path).name for entry in entries if not entry.is_dir]


def sizes(repository: ArtifactRepository, folders: Iterable[str]) -> dict[str, int | None]:
    """Sizes in bytes of the files in some artifact folders, by path; None if the store gives none."""
    entries = [entry for folder in folders for entry in _listed(repository, folder)]
    return {entry.path: entry.file_size for entry in entries if not entry.is_dir}


def sizes_below(repository: ArtifactRepository, folder: str = "") -> dict[str, int | None]:
    """`sizes` of all files below an artifact folder."""
    found: dict[str, int | None] = {}
    for entry in _listed(repository, folder):
        found |= (
            sizes_below(repository, entry.path) if entry.is_dir else {entry.path: entry.file_size}
        )
    return found


def _listed(repository: ArtifactRepository, folder: str) -> list[FileInfo]:
    return list(repeated(lambda: repository.list_artifacts(folder or None)))


def read_json(client: MlflowClient, run_id: str, path: str) -> Any:
    """Downloads and reads a JSON artifact.

    Raises:
        TrackingError: no such artifact, it is damaged, or the server is unreachable.
    """
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        file = download(client, run_id, path, Path(folder))
        try:
            return decode(json.loads, file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            problem = (
                "is empty" if file.is_file() and not file.stat().st_size else first_line(error)
            )
            raise TrackingError(f"run {run_id}: artifact {path!r} is damaged: {problem}") from None
