"""Another version's source tree beside this one: start-up, exit, an epoch, and a large table.

    python -m benchmarks.versions OTHER_SRC

OTHER_SRC is the `src` folder of another checkout, such as one made by `git worktree add`. Both use the
same Python environment. It is not part of `make bench`, which has no other version at hand.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    QUICK_NOTE,
    ROOT,
    child,
    empty_store,
    environment,
    in_turn,
    median,
    publish,
    ratio,
    table,
)
from benchmarks.large_table import QUICK_ROWS, ROWS
from benchmarks.large_table import write_table as write_large_table
from benchmarks.tracked_training import journalled, write_table

RUNBACK = (sys.executable, "-m", "runback")
EPOCHS, CHECKPOINT_EVERY = 10_000, 1000
HELP, SHORT, LONG = "`runback --help`", "`runback train`, 20 epochs", "`runback train`, tracked"
LARGE = "`runback train` of the large table, 2 epochs"
BARE = "bare loop, validated, not tracked"


def arguments() -> argparse.Namespace:
    """The other tree, and `quick`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("other", type=Path, metavar="OTHER_SRC")
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE[:-1])
    return parser.parse_args()


def run(source: Path, folder: Path, *words: str) -> tuple[str, float, float]:
    """Standard output of a command of one tree, its seconds from start to exit, and when it ended."""
    env = {**environment(folder), "PYTHONPATH": os.fspath(source), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    done = subprocess.run((*RUNBACK, *words), cwd=folder, env=env, text=True, capture_output=True)
    wall, ended = time.perf_counter() - begin, time.time()
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip(), wall, ended


def wall_of(source: Path, folder: Path, *words: str) -> dict[str, float]:
    """Seconds from start to exit."""
    return {"wall": run(source, folder, *words)[1]}


def tracked(source: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """A whole training, with the times that it journalled itself."""
    words = (
        "train", "--data", "table.csv", "--model", "linear", "--epochs", str(epochs),
        "--checkpoint-every", str(CHECKPOINT_EVERY), "--threads", "1", "--device", "cpu",
    )  # fmt: skip
    run_id, wall, ended = run(source, folder, *words)
    with sqlite3.connect(folder / "home" / run_id / "journal.db") as db:
        (first,) = db.execute("SELECT min(timestamp) FROM metrics").fetchone()
    db.close()
    to_first = wall - (ended - first / 1000)
    return {"wall": wall, "to_first": to_first, **journalled(folder / "home" / run_id, ended)}


def bare(folder: Path, epochs: int) -> dict[str, Any]:
    """The loop that both are compared with, in a process of its own."""
    return child("benchmarks.peers", "bare", str(epochs), OMP_NUM_THREADS="1")


def main() -> None:
    """Measures in turn and prints."""
    asked = arguments()
    trees = {"before": asked.other.resolve(), "now": ROOT / "src"}
    short = ("train", "--data", str(ROOT / "data" / "non_linear.csv"), "--epochs", "20")
    large = ("train", "--data", "large.csv", "--epochs", "2", "--batch-size", "8192")
    rounds, epochs = (1, 1000) if asked.quick else (5, EPOCHS)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_table(folder / "table.csv")
        write_large_table(folder / "large.csv", QUICK_ROWS if asked.quick else ROWS)
        empty_store(folder)
        cases: dict[Any, Any] = {BARE: partial(bare, folder, epochs)}
        for version, source in trees.items():
            cases[HELP, version] = partial(wall_of, source, folder, "--help")
            cases[SHORT, version] = partial(wall_of, source, folder, *short)
            cases[LARGE, version] = partial(wall_of, source, folder, *large)
            cases[LONG, version] = partial(tracked, source, folder, epochs)
        found = in_turn(cases, rounds)
    publish("versions", "Before and after", [ABOUT, "", *rows(found)])


ABOUT = (
    "Two source trees in one Python environment, in turn. The tracked training is that of the "
    "section on tracked training, uncompiled; its time per epoch is also given as a ratio to the "
    "bare loop with the same validation, measured in the same rounds. The large table is that of its "
    "own section."
)


def rows(found: dict[Any, list[dict[str, Any]]]) -> list[str]:
    """One line for each figure: before, now, and the median of the ratios of the rounds."""
    figures = (
        ("`runback --help`, ms", HELP, "wall", 1e3),
        ("`runback train`, 20 epochs, start to exit, s", SHORT, "wall", 1),
        (f"{LARGE}, start to exit, s", LARGE, "wall", 1),
        ("`runback train`, start to first epoch, s", LONG, "to_first", 1),
        ("`runback train`, per epoch, us", LONG, "per_epoch", 1e6),
        ("`runback train`, last epoch to exit, s", LONG, "to_exit", 1),
    )
    lines = [line(found, *figure) for figure in figures]
    plain = [r["per_epoch"] for r in found[BARE]]
    per = [[r["per_epoch"] for r in found[LONG, v]] for v in ("before", "now")]
    relative = [f"{ratio(values, plain):.3f}" for values in per]
    lines.append(("per epoch, of the bare loop", *relative, f"{ratio(per[1], per[0]):.2f}"))
    return table(("", "before", "now", "now / before"), lines)


def line(found: dict[Any, Any], title: str, case: str, key: str, scale: float) -> tuple[str, ...]:
    """A figure of both trees."""
    before, now = ([r[key] for r in found[case, version]] for version in ("before", "now"))
    shown = (f"{median(values) * scale:,.3g}" for values in (before, now))
    return (title, *shown, f"{ratio(now, before):.2f}")


if __name__ == "__main__":
    main()
