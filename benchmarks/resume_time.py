"""Time from `runback resume` to the first new epoch, with a short and a long history.

Builds a run once, stops it, and fills its journal up to 1,000 and to 1,000,000 points that are
delivered; nothing that a resume does may read them. Run it with `python -m benchmarks.resume_time`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1_000, 1_000_000)
REPEATS = 5
FOLDERS = (".runback", "mlruns")
METRICS = ("cost", "val_cost")


def main(sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Measures and returns one row for each size: points, seconds (the median) and the spread."""
    with tempfile.TemporaryDirectory(prefix="runback-resume-") as folder:
        place = Path(folder)
        run_id = _stopped_run(place)
        kept = place / "kept"
        for name in FOLDERS:
            shutil.copytree(place / name, kept / name)
        shutil.copyfile(place / "mlflow.db", kept / "mlflow.db")
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats):  # in turns, so that a busy moment of the machine meets both
            for size in sizes:
                _put_back(place, kept)
                _fill(place / ".runback" / run_id / "journal.db", size)
                times[size].append(_seconds_to_first_epoch(place, run_id))
    return [_row(size, found) for size, found in times.items()]


def _row(points: int, found: list[float]) -> dict[str, Any]:
    found = sorted(found)
    return {
        "points": points,
        "seconds": round(found[len(found) // 2], 3),
        "fastest": round(found[0], 3),
        "slowest": round(found[-1], 3),
    }


def _environment(place: Path) -> dict[str, str]:
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "RUNBACK_HOME": str(place / ".runback"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    return {**os.environ, **own}


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runback", *words]


def _stopped_run(place: Path) -> str:
    """A run of 100 epochs that wants to go on for very long."""
    data = str(ROOT / "data" / "non_linear.csv")
    words = ("train", "--data", data, "--epochs", "100", "--checkpoint-every", "100")
    done = subprocess.run(
        _command(*words, "--register", "none"), cwd=place, env=_environment(place), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def _put_back(place: Path, kept: Path) -> None:
    for name in FOLDERS:
        shutil.rmtree(place / name)
        shutil.copytree(kept / name, place / name)
    for log in place.glob("mlflow.db-*"):
        log.unlink()
    shutil.copyfile(kept / "mlflow.db", place / "mlflow.db")


def _fill(journal: Path, points: int) -> None:
    """Adds delivered points of epochs long before: negative steps, so that the run can go on."""
    with contextlib.closing(sqlite3.connect(journal)) as database:
        there = database.execute("SELECT count(*) FROM metrics").fetchone()[0]
        missing = max(0, points - there)
        rows = ((METRICS[i % 2], -1 - i // 2, float(i), 1_700_000_000_000) for i in range(missing))
        database.executemany(
            "INSERT INTO metrics (key, step, value, timestamp) VALUES (?, ?, ?, ?)", rows
        )
        database.execute(
            "INSERT OR REPLACE INTO facts VALUES "
            "('acknowledged', (SELECT CAST(max(id) AS TEXT) FROM metrics))"
        )
        database.commit()


def _seconds_to_first_epoch(place: Path, run_id: str) -> float:
    """From the start of the command to its first line about a new epoch."""
    began = time.perf_counter()
    process = subprocess.Popen(
        _command("resume", run_id, "--epochs", "110"), cwd=place, env=_environment(place),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seconds, said = 0.0, ""
    for line in process.stderr:
        said += line
        if not seconds and re.search(r"epoch \d+/110", line):
            seconds = time.perf_counter() - began
    if process.wait() != 0 or not seconds:
        raise RuntimeError(f"the resume has failed: {said}")
    return seconds


if __name__ == "__main__":
    rows = main()
    print("| points in the history | seconds to the first new epoch | fastest | slowest |")
    print("| ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['points']:,} | {row['seconds']} | {row['fastest']} | {row['slowest']} |")
    print(f"ratio {rows[-1]['seconds'] / rows[0]['seconds']:.3f}")
