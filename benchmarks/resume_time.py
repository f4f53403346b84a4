"""Time from `runback resume` to the first new epoch, with a short and a long history.

Builds a run once, stops it, and fills its journal up to 1,000 and to 1,000,000 points that are
delivered; nothing that a resume does may read them. Run it with `python -m benchmarks.resume_time`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.common import ROOT, environment, in_turn, median, options, publish, table

SIZES, QUICK_SIZES = (1_000, 1_000_000), (1_000, 100_000)
REPEATS = 5
FOLDERS = ("home", "mlruns")
METRICS = ("cost", "val_cost")


def main() -> None:
    """Measures and prints."""
    arguments = options(__doc__)
    sizes, repeats = (QUICK_SIZES, 1) if arguments.quick else (SIZES, REPEATS)
    times = measured(sizes, repeats)
    rows = [
        (f"{size:,}", *(f"{f(found):.3f}" for f in (median, min, max)))
        for size, found in times.items()
    ]
    few, many = sizes
    grown = median(times[many]) / median(times[few])
    body = [
        "From the start of `runback resume` to its first new epoch; the points of the history are "
        f"delivered. Resumes of each, in turn: {repeats}.",
        "",
        *table(("points in the history", "seconds, median", "fastest", "slowest"), rows),
        "",
        f"With {many:,} points it takes {grown:.2f} times as long as with {few:,}.",
    ]
    publish("resume_time", "Resume time", body)


def measured(sizes: tuple[int, ...], repeats: int) -> dict[int, list[float]]:
    """Seconds of each resume, by the points of the history."""
    with tempfile.TemporaryDirectory(prefix="runback-resume-") as temporary:
        folder = Path(temporary)
        run_id = _stopped_run(folder)
        kept = folder / "kept"
        for name in FOLDERS:
            shutil.copytree(folder / name, kept / name)
        shutil.copyfile(folder / "mlflow.db", kept / "mlflow.db")
        cases = {str(size): partial(_resumed, folder, kept, run_id, size) for size in sizes}
        return {int(size): times for size, times in in_turn(cases, repeats).items()}


def _resumed(folder: Path, kept: Path, run_id: str, points: int) -> float:
    """Seconds of one resume from the stopped run with so many points."""
    _put_back(folder, kept)
    _fill(folder / "home" / run_id / "journal.db", points)
    return _seconds_to_first_epoch(folder, run_id)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runback", *words]


def _stopped_run(folder: Path) -> str:
    """Trains a run of 100 epochs; returns its ID."""
    data = str(ROOT / "data" / "non_linear.csv")
    words = ("train", "--data", data, "--epochs", "100", "--checkpoint-every", "100")
    done = subprocess.run(
        _command(*words, "--register", "none"), cwd=folder, env=environment(folder), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def _put_back(folder: Path, kept: Path) -> None:
    for name in FOLDERS:
        shutil.rmtree(folder / name)
        shutil.copytree(kept / name, folder / name)
    for log in folder.glob("mlflow.db-*"):
        log.unlink()
    shutil.copyfile(kept / "mlflow.db", folder / "mlflow.db")


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


def _seconds_to_first_epoch(folder: Path, run_id: str) -> float:
    """From the start of the command to its first line about a new epoch."""
    began = time.perf_counter()
    process = subprocess.Popen(
        _command("resume", run_id, "--epochs", "110"), cwd=folder, env=environment(folder),
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
    main()
