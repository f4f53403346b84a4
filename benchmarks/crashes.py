"""Lets ckpt-chaos kill trainings at every file boundary, resume them, and judge what came back.

Not part of `make bench`, as it takes an hour: `make crashes`. The cases are `runback train`, a loop of
one's own, and ckpt-chaos's own targets of Lightning and transformers with our logger and callback.
`--bare` adds these two without ours.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sqlite3
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import QUICK_NOTE, ROOT, empty_store, environment, publish, table

VERDICTS = ("PASS", "HARD_FAIL", "SILENT_DIVERGENCE", "LOST_WORK")
HOME = ("env", "RUNBACK_HOME={out}", sys.executable, "-m")
TRAIN = (
    *HOME, "runback", "train", "--data", str(ROOT / "data" / "non_linear.csv"), "--epochs", "4",
    "--checkpoint-every", "2", "--keep-checkpoints", "0", "--key", "{out}",
)  # fmt: skip
LOOP = (*HOME, "benchmarks.crashed_loop", "{out}")
DIGEST = f"{sys.executable} -m benchmarks.crashes digest {{out}}"
MANIFESTS = "{out}/*/checkpoints/checkpoint-*.json"
RESUMED = r"resumed after epoch (\d+)"
EVERY_POINT = 10_000
# The names of ckpt-chaos's targets, and the modules that train them without and with ours.
TARGETS = {
    "Lightning": ("lightning_trainer", "ckpt_chaos.targets.lightning_trainer",
                  "benchmarks.crashed_lightning"),
    "transformers": ("hf_trainer", "ckpt_chaos.targets.hf_trainer",
                     "benchmarks.crashed_transformers"),
}  # fmt: skip


def digest(home: Path) -> str:
    """A digest of the tensors of the last checkpoint and of every point of the only run in a folder."""
    (folder,) = {file.parent.parent for file in home.glob("*/checkpoints/*.json")}
    newest = max(folder.glob("checkpoints/*.pt"), key=lambda file: file.name)
    found = hashlib.sha256(newest.name.encode())
    with zipfile.ZipFile(newest) as parts:
        for name in sorted(name for name in parts.namelist() if "/data/" in name):
            found.update(parts.read(name))
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        points = db.execute("SELECT key, step, value FROM metrics ORDER BY key, step").fetchall()
    found.update(repr(points).encode())
    return f"{len(points)} points, {found.hexdigest()}"


def ran(command: tuple[str, ...], work: Path, points: int = EVERY_POINT) -> list[Any]:
    """The verdicts on a command that is killed at so many of its points at most."""
    from ckpt_chaos.byo import run_byo

    return list(
        run_byo(
            list(command), None, work, max_points=points, result_cmd=DIGEST, step_regex=RESUMED,
            checkpoint_glob=MANIFESTS, ignore_size=True,
        )
    )  # fmt: skip


def targeted(target: str, module: str, work: Path) -> list[Any]:
    """The verdicts on one of ckpt-chaos's own targets, run as another module."""
    from ckpt_chaos import runner

    runner.TARGETS[target] = module
    return list(runner.run_matrix(work, jobs=1, target=target))


def cases(folder: Path, points: int, bare: bool) -> Iterator[tuple[str, Callable[[], list[Any]]]]:
    """The names of the cases, and what runs them."""
    yield "`runback train`", partial(ran, TRAIN, folder / "train", points)
    yield "`runback.run`", partial(ran, LOOP, folder / "loop", points)
    for name, (target, _, ours) in TARGETS.items():
        yield f"{name}, ours", partial(targeted, target, ours, folder / f"our-{name}")
    for name, (target, theirs, _) in TARGETS.items() if bare else ():
        yield f"{name}, bare", partial(targeted, target, theirs, folder / f"bare-{name}")


def row(name: str, verdicts: list[Any]) -> tuple[str, ...]:
    """A row of the table; each verdict is printed."""
    from ckpt_chaos.runner import print_table

    print_table(verdicts)
    kills = sum(one.crashed for one in verdicts)
    counts = Counter(one.verdict for one in verdicts)
    return (name, str(len(verdicts)), str(kills), *(str(counts[key]) for key in VERDICTS))


def main() -> None:
    """Runs the cases and puts the counts in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE[:-1])
    parser.add_argument("--bare", action="store_true", help="also the targets without ours")
    parser.add_argument("--only", default="", help="the cases whose names contain this text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        empty_store(folder)
        os.environ |= environment(folder) | {"XDG_STATE_HOME": str(folder / "state")}
        os.environ["CKPT_CHAOS_PREPEND_PYTHONPATH"] = os.environ["PYTHONPATH"]
        rows = [
            row(title, case())
            for title, case in cases(folder, 4 if given.quick else EVERY_POINT, given.bare)
            if given.only in title
        ]
    about = (
        "Each training is killed at every file that it creates, renames or removes, and with files cut "
        "in half, then started again by the same command; ckpt-chaos compares the last weights (of the "
        "first two cases every tensor of the last checkpoint and every metric point) with those of a "
        "training that was not killed. One run of each case, the control, is not killed. HARD_FAIL: "
        "the resume fails; SILENT_DIVERGENCE: other weights; LOST_WORK: resumed from an older "
        "checkpoint than the newest whole one."
    )
    head = ("case", "runs", "kills", *VERDICTS)
    packages = ("ckpt-chaos", "lightning", "transformers")
    publish("crashes", "Crashes", [about, "", *table(head, rows)], packages)


if __name__ == "__main__":
    if sys.argv[1:2] == ["digest"]:
        print(digest(Path(sys.argv[2])))
    else:
        main()
