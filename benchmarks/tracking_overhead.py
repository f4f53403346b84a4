"""What tracking costs: 10,000 epochs of two metrics each, all of them delivered at the end.

    python -m benchmarks.tracking_overhead

Measured on a whole `runback train` with a SQLite store: the share of the loop's time that goes into
the journal, and the seconds from the last epoch to the end of the process, when every point, file
and the registered model are in MLflow. The second figure includes the scores and the plots.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, empty_store, environment, in_turn, options, publish, table

EPOCHS = 10_000
ROUNDS = 3
COLUMNS = {
    "points in the store": "{:,.0f}", "loop, s": "{:.2f}", "journal, us an epoch": "{:.1f}",
    "journal, % of the loop": "{:.1f}", "last epoch to exit, s": "{:.2f}",
}  # fmt: skip


def main() -> None:
    """Measures and prints: a row for each round."""
    if sys.argv[1:2] == ["--train"]:
        sys.exit(train(sys.argv[2]))
    arguments = options(__doc__)
    epochs, rounds = (EPOCHS // 10, 1) if arguments.quick else (EPOCHS, ROUNDS)
    rows = in_turn({"runback train": partial(measure, epochs)}, rounds)["runback train"]
    cells = [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    body = [
        f"A whole `runback train` of {epochs:,} epochs with two metrics each and a SQLite store, "
        "one row a round: the seconds of the loop, what of them goes into the journal, and the "
        "seconds from the last epoch to the end of the process, scores and plots included.",
        "",
        *table(list(COLUMNS), cells),
    ]
    publish("tracking_overhead", "Tracking overhead", body)


def measure(epochs: int) -> dict[str, float]:
    """One training in a separate process with its own store."""
    with tempfile.TemporaryDirectory(prefix="runback-bench-") as folder:
        empty_store(Path(folder))
        command = [sys.executable, "-m", "benchmarks.tracking_overhead", "--train", str(epochs)]
        env = environment(Path(folder))
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        ended = time.time()
        if done.returncode:
            raise SystemExit(f"the training failed:\n{done.stderr}")
        found = json.loads((Path(folder) / "times.json").read_text())
        return {**_row(found, epochs, ended), "points in the store": _points(Path(folder))}


def _row(found: dict[str, float], epochs: int, ended: float) -> dict[str, float]:
    loop = found["last"] - found["first"]
    return {
        "loop, s": loop,
        "journal, us an epoch": 1e6 * found["journal"] / epochs,
        "journal, % of the loop": 100 * found["journal"] / loop,
        "last epoch to exit, s": ended - found["last"],
    }


def _points(folder: Path) -> float:
    """The number of metric points in the store, to check that all were delivered."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as db:
        (count,) = db.execute("SELECT count(*) FROM metrics").fetchone()
    return float(count)


def train(epochs: str) -> int:
    """Trains with timed calls of `Run.log`; runs in the measured process."""
    from runback import cli
    from runback.open_run.run import Run

    times: dict[str, Any] = {"journal": 0.0}
    log = Run.log

    def timed(self: Run, metrics: Mapping[str, float], *, step: int) -> None:
        times.setdefault("first", time.time())
        begin = time.perf_counter()
        log(self, metrics, step=step)
        times["journal"] += time.perf_counter() - begin
        times["last"] = time.time()

    Run.log = timed  # type: ignore[method-assign]
    code = cli.main(["train", "--data", str(ROOT / "data/non_linear.csv"), "--epochs", epochs])
    Path("times.json").write_text(json.dumps(times))
    return code


if __name__ == "__main__":
    main()
