"""What the tests of tracking share: a training without torch, row dumps, and checks of a whole run."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conftest import DATA, Workspace, wait_until
from runback.storage.journal import Journal

FOREVER = ("--epochs", "100000000", "--checkpoint-every", "100000000")

# The training process as the courier sees it, without torch: opens a run, records points, posts
# checkpoints, and ends as the last argument says. Starts in a fifth of the time.
TRAINER = """
import json, os, sys, time
from runback.config import TrainConfig
from runback.storage.paths import run_dir
from runback.storage.atomic import sha256_of
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.tracking.client import CourierClient

points, pause, end = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
facts = dict(name="t", path="t.csv", fingerprint="f", features=["x"], targets=["y"],
             split_digest="d", rows={"training": 8})
with CourierClient() as desk:
    run_id = desk.ask("open", config=TrainConfig().as_params(), facts=facts,
                      run_id=os.environ.get("MLFLOW_RUN_ID"))
    folder = run_dir(run_id)
    print(run_id, desk._courier.pid, flush=True)
    if end == "before":
        time.sleep(60)
    with FileLock(folder.lock).acquire("it"):
        journal = Journal(folder.journal, tidy=False)
        desk.deliver(run_id)
        folder.checkpoints.mkdir()
        for step in range(1, points + 1):
            journal.reach(step)
            journal.record([("cost", 1.0 / step), ("val_cost", step / 3)], step)
            if journal.flush_if_due():
                desk.watch()
            if step % max(1, points // 4) == 0:
                file = folder.checkpoints / f"checkpoint-{step:06d}.pt"
                file.write_bytes(os.urandom(1000))
                journal.post("artifact", file=f"checkpoints/{file.name}",
                             artifact_path="checkpoints", sha256=sha256_of(file))
            time.sleep(pause)
        journal.flush()
        print("trained", flush=True)
        if end == "wait":
            sys.stdin.readline()
            end = "FINISHED"
        if end == "unwritten":  # as on a full disk
            sys.exit(0 if desk.finish("FAILED", "no space", lambda: False) else 75)
        if end == "die":
            os.kill(os.getpid(), 9)
        journal.set_facts({"ended_ms": time.time_ns() // 1_000_000, "status": [end, ""]})
        journal.close()
        sys.exit(0 if desk.finish(end, "", lambda: False) else 75)
"""


def start_trainer(
    workspace: Workspace, points: int, pause: float, end: str, **env: str
) -> subprocess.Popen[str]:
    """Starts a training without torch; its first line is the run's ID and the courier's pid."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(points), str(pause), end],
        cwd=workspace.folder, env={**workspace.env, **env}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def first_line(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The run's ID and the courier's pid."""
    assert process.stdout is not None
    run_id, courier = process.stdout.readline().split()
    return run_id, int(courier)


def ended(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[int, str]:
    """Exit code and standard error, read when the courier is gone too."""
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def dump(database: Path) -> dict[str, str]:
    """Every row of a store: by table, a digest that changes with any of them."""
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
    """Every point of the journal is on the server once, bit-equal, every posted file by its digest.

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
    """Every file of the outbox is an artifact with the digest that was noted."""
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
    """Arguments of a training on the seed's table."""
    return ("train", "--data", str(DATA / "non_linear.csv"), *arguments)


def alive(pid: int) -> bool:
    """Whether a process still does anything: one that waits to be buried does not."""
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def training_run(workspace: Workspace) -> str:
    """The newest run, as soon as its first points have arrived."""
    found: list[str] = []

    def trains() -> bool:
        found[:] = [run.info.run_id for run in workspace.client.search_runs(["0"], max_results=1)]
        return bool(found) and "cost" in workspace.client.get_run(found[0]).data.metrics

    wait_until(trains, 120)
    return found[0]
