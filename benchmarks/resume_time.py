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
    asked = options(__doc__)
    sizes, repeats = (QUICK_SIZES, 1) if asked.quick else (SIZES, REPEATS)
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
    with tempfile.TemporaryDirectory(prefix="runback-resume-") as folder:
        place = Path(folder)
        run_id = _stopped_run(place)
        kept = place / "kept"
        for name in FOLDERS:
            shutil.copytree(place / name, kept / name)
        shutil.copyfile(place / "mlflow.db", kept / "mlflow.db")
        cases = {str(size): partial(_resumed, place, kept, run_id, size) for size in sizes}
        return {int(size): times for size, times in in_turn(cases, repeats).items()}


def _resumed(place: Path, kept: Path, run_id: str, points: int) -> float:
    """Seconds of one resume from the stopped run with so many points."""
    _put_back(place, kept)
    _fill(place / "home" / run_id / "journal.db", points)
    return _seconds_to_first_epoch(place, run_id)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runback", *words]


def _stopped_run(place: Path) -> str:
    """A run of 100 epochs that wants to go on for very long."""
    data = str(ROOT / "data" / "non_linear.csv")
    words = ("train", "--data", data, "--epochs", "100", "--checkpoint-every", "100")
    done = subprocess.run(
        _command(*words, "--register", "none"), cwd=place, env=environment(place), check=True,
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
        _command("resume", run_id, "--epochs", "110"), cwd=place, env=environment(place),
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
