"""Lists and downloads the artifacts of a run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from runback.errors import TrackingError
from runback.tracking.connection import describe_error, request


def download(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    """Downloads one artifact of a run into `folder`.

    Raises:
        TrackingError: no such artifact, or the server is unreachable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(client.download_artifacts(run_id, path, str(folder)))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id}: artifact {path!r}: {describe_error(error)}") from error


def list_names(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    """Names of the files in an artifact folder of a run.

    Raises:
        TrackingError: the server is unreachable.
    """
    entries = request(f"run {run_id}", lambda: client.list_artifacts(run_id, folder))
    return [Path(entry.path).name for entry in entries if not entry.is_dir]


def read_json(client: MlflowClient, run_id: str, path: str) -> Any:
    """Downloads and reads a JSON artifact.

    Raises:
        TrackingError: no such artifact, or the server is unreachable.
    """
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        file = download(client, run_id, path, Path(folder))
        return json.loads(file.read_text(encoding="utf-8"))
