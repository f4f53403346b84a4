"""What tracking costs: 10,000 epochs of two metrics each, all of them delivered at the end.

    python -m benchmarks.tracking_overhead [EPOCHS]

Measured on a whole `runback train` with a SQLite store: the share of the loop's time that goes into
the journal, and the seconds from the last epoch to the end of the process, when every point, file
and the registered model are in MLflow. The second figure includes the scores and the plots.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 10_000
ROUNDS = 3


def main(epochs: int = EPOCHS, rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Prints a table with a row for each round, and returns the rows."""
    names = ("epochs", "points", "loop s", "journal us/epoch", "journal %", "end s")
    print("  ".join(f"{name:>16}" for name in names))
    rows = []
    for _ in range(rounds):
        row = measure(epochs)
        rows.append(row)
        print("  ".join(f"{row[name]:16.3f}" for name in names), flush=True)
    return rows


def measure(epochs: int) -> dict[str, float]:
    """One training in a process and a store of its own."""
    with tempfile.TemporaryDirectory(prefix="runback-bench-") as folder:
        _make_store(Path(folder))
        env = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "RUNBACK_HOME": f"{folder}/.runback",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }
        command = [sys.executable, "-m", "benchmarks.tracking_overhead", "--train", str(epochs)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        ended = time.time()
        if done.returncode:
            raise SystemExit(f"the training failed:\n{done.stderr}")
        found = json.loads((Path(folder) / "times.json").read_text())
        return {**_row(found, epochs, ended), "points": _points(Path(folder))}


def _row(found: dict[str, float], epochs: int, ended: float) -> dict[str, float]:
    loop = found["last"] - found["first"]
    return {
        "epochs": epochs,
        "loop s": loop,
        "journal us/epoch": 1e6 * found["journal"] / epochs,
        "journal %": 100 * found["journal"] / loop,
        "end s": ended - found["last"],
    }


def _make_store(folder: Path) -> None:
    """Creating the tables takes seconds, which are not what is measured."""
    script = "import mlflow; mlflow.MlflowClient().search_experiments()"
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True)


def _points(folder: Path) -> float:
    """Metric points in the store: proof that the end was not reached by leaving some behind."""
    import sqlite3

    with sqlite3.connect(folder / "mlflow.db") as db:
        (count,) = db.execute("SELECT count(*) FROM metrics").fetchone()
    db.close()
    return float(count)


def train(epochs: str) -> int:
    """In the measured process: a training whose calls into the journal are timed."""
    from runback import cli
    from runback.jobs.recording import Recorder

    times: dict[str, Any] = {"journal": 0.0}
    record = Recorder.epoch

    def timed(self: Recorder, result: Any) -> None:
        times.setdefault("first", time.time())
        begin = time.perf_counter()
        record(self, result)
        times["journal"] += time.perf_counter() - begin
        times["last"] = time.time()

    Recorder.epoch = timed  # type: ignore[method-assign]
    code = cli.main(["train", "--data", str(ROOT / "data/non_linear.csv"), "--epochs", epochs])
    Path("times.json").write_text(json.dumps(times))
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        sys.exit(train(sys.argv[2]))
    main(*map(int, sys.argv[1:2]))
