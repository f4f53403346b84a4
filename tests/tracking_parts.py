"""Helpers for tests of tracking: a training without torch, row dumps, and delivery checks."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from conftest import DATA, PROGRAMS, ROOT, SECONDS, Workspace, wait_until
from runback.storage.journal import Journal
from runback.storage.paths import pending_run_dir
from runback.tracking import tags
from runback.tracking.messages import RunDescription

FOREVER = ("--epochs", "100000000", "--checkpoint-every", "100000000")


def start_trainer(
    workspace: Workspace, points: int, pause: float, end: str, **env: str
) -> subprocess.Popen[str]:
    """Starts a training without torch; its first line is the run's ID and the courier's pid."""
    return subprocess.Popen(
        [sys.executable, PROGRAMS / "train_without_torch.py", str(points), str(pause), end],
        cwd=workspace.folder, env={**workspace.env, **env}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_and_courier(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The run's ID and the courier's pid."""
    assert process.stdout is not None
    run_id, courier = process.stdout.readline().split()
    return run_id, int(courier)


def ended(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[int, str]:
    """Waits for the process and its courier; returns the exit code and standard error."""
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def create_pending(client) -> str:
    """Creates a run as the courier does; its ID."""
    from runback.tracking.create_run import create_run

    pending = pending_run_dir()
    Journal(pending.journal).close()
    return create_run(client, pending, RunDescription(params={}, tags={})).run_id


def recorded(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """What the tag `runback.run` of a run has recorded."""
    facts: dict[str, Any] = json.loads(client.get_run(run_id).data.tags[tags.RUN])
    return facts


def record(client: MlflowClient, run_id: str, **facts: Any) -> None:
    """Replaces entries of the tag `runback.run`."""
    text = json.dumps({**recorded(client, run_id), **facts})
    client.set_tag(run_id, tags.RUN, text)


def mlflow_run(workspace: Workspace, *arguments: str) -> str:
    """Runs an entry point of the project, and returns the ID of the run that MLflow creates."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{workspace.env['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", *arguments],
        env={**workspace.env, "PATH": path}, cwd=workspace.folder, text=True, capture_output=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    newest = workspace.client.search_runs(["0"], order_by=["attributes.start_time DESC"])[0]
    return str(newest.info.run_id)


def dump(database: Path) -> dict[str, str]:
    """The number of rows and a digest of all rows, by table of a store."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = {name: sorted(map(repr, db.execute(f'SELECT * FROM "{name}"'))) for name in tables}
    db.close()
    digests = {name: hashlib.sha256("".join(found).encode()) for name, found in rows.items()}
    return {name: f"{len(rows[name])} rows, {d.hexdigest()}" for name, d in digests.items()}


def journal_points(workspace: Workspace, run_id: str) -> dict[str, list[tuple[int, float, int]]]:
    """All points of a journal: by metric, the steps, values and timestamps."""
    journal = Journal(workspace.home(run_id) / "journal.db")
    keys = [row[0] for row in journal._db.execute("SELECT DISTINCT key FROM metrics")]
    found = {k: [(p.step, p.value, p.timestamp) for p in journal.points(k)] for k in keys}
    journal.close()
    return found


def check_delivered(workspace: Workspace, run_id: str) -> int:
    """Asserts that all points are on the server once and bit-equal, and all files by digest.

    Returns:
        The number of points.
    """
    count = 0
    for key, expected in journal_points(workspace, run_id).items():
        history = workspace.client.get_metric_history(run_id, key)
        found = sorted((p.step, p.value, p.timestamp) for p in history)
        assert found == expected, f"{key}: {len(found)} points arrived of {len(expected)}"
        count += len(expected)
    check_files(workspace, run_id)
    return count


def check_files(workspace: Workspace, run_id: str) -> None:
    """Asserts that every file of the outbox is an artifact with the recorded digest."""
    with sqlite3.connect(workspace.home(run_id) / "journal.db") as db:
        rows = db.execute("SELECT payload FROM outbox WHERE kind = 'artifact'").fetchall()
    db.close()
    noted: dict[str, Any] = {}
    for payload in (json.loads(row[0]) for row in rows):
        folder = payload["artifact_path"]
        noted[f"{folder}/{Path(payload['file']).name}".lstrip("/")] = payload["sha256"]
    with tempfile.TemporaryDirectory() as folder:
        for path, digest in noted.items():
            local = Path(workspace.client.download_artifacts(run_id, path, folder))
            assert hashlib.sha256(local.read_bytes()).hexdigest() == digest, path


def status_of(workspace: Workspace, run_id: str) -> str:
    return str(workspace.client.get_run(run_id).info.status)


def quick(*arguments: str) -> tuple[str, ...]:
    """Arguments of a training on `non_linear.csv`."""
    return ("train", "--data", str(DATA / "non_linear.csv"), *arguments)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def training_run(workspace: Workspace) -> str:
    """Waits for the first points of the newest run and returns its ID."""
    found: list[str] = []

    def trains() -> bool:
        found[:] = [run.info.run_id for run in workspace.client.search_runs(["0"], max_results=1)]
        return bool(found) and "cost" in workspace.client.get_run(found[0]).data.metrics

    wait_until(trains, 120)
    return found[0]
