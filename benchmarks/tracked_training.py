"""The seed's regression, tracked: runback's whole command beside a bare loop and the peers."""

from __future__ import annotations

import csv
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    Aim,
    bars,
    child,
    device,
    empty_store,
    environment,
    in_turn,
    median,
    options,
    publish,
    ratio,
    table,
)
from benchmarks.peers import rows
from runback.data.split import make_split

OURS = "runback, tracked, validated, checkpointed"
COMPILED = "runback, the same with compile default"
BARE = "bare loop, validated, not tracked"
SEED_LOGGED = "seed's loop + mlflow.log_metric"
LIGHTNING_LOGGED = "Lightning + MLFlowLogger"
# Epochs: the slow ones train fewer, and their time per epoch is what is compared.
CASES = {
    BARE: ("bare", 10_000),
    OURS: ("none", 10_000),
    COMPILED: ("default", 10_000),
    "bare loop, without validation": ("bare_unvalidated", 10_000),
    "seed's loop (no validation)": ("seed", 1_000),
    SEED_LOGGED: ("seed_mlflow", 200),
    "MLflow's example (mlflow.log_metrics)": ("mlflow_example", 200),
    "Lightning, not tracked": ("lightning", 300),
    LIGHTNING_LOGGED: ("lightning_mlflow", 120),
    "skorch, not tracked": ("skorch", 300),
    "HF Trainer, not tracked": ("hf_trainer", 300),
    "HF Trainer + MLflow": ("hf_trainer_mlflow", 120),
}
CHECKPOINT_EVERY = 1000
PACKAGES = ("lightning", "skorch", "transformers", "accelerate")


def write_table(path: Path) -> None:
    """The peers' two columns as a CSV, every row at its own place, so that the split is theirs."""
    train, validation = rows()
    split = make_split(200, "8:1:1", 0)
    x, y = torch.zeros(200, 2), torch.zeros(200, 1)
    for index, part in ((split.train, train), (split.validation, validation)):
        x[index], y[index] = part.tensors
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x2", "x", "y"])
        writer.writerows([repr(v) for v in row] for row in torch.cat((x, y), 1).tolist())


def command(folder: Path, epochs: int, compile_mode: str) -> dict[str, Any]:
    """`runback train` from start to exit, with the times that it journalled itself."""
    arguments = [
        "train", "--data", "table.csv", "--model", "linear", "--epochs", str(epochs),
        "--checkpoint-every", str(CHECKPOINT_EVERY), "--compile", compile_mode, "--threads", "1",
        "--device", device(),
    ]  # fmt: skip
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "runback", *arguments],
        cwd=folder, env=environment(folder), text=True, capture_output=True,
    )  # fmt: skip
    wall, ended = time.perf_counter() - begin, time.time()
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"wall": wall, **journalled(folder / "home" / done.stdout.strip(), ended)}


def journalled(home: Path, ended: float) -> dict[str, Any]:
    """Seconds per epoch after a warm-up, the last costs, and the seconds from last epoch to exit."""
    with sqlite3.connect(home / "journal.db") as db:
        points = dict(db.execute("SELECT step, timestamp FROM metrics WHERE key = 'cost'"))
        last = max(points)
        costs = {
            key: value
            for key, value in db.execute(
                "SELECT key, value FROM metrics WHERE step = ?", (last,)
            ).fetchall()
        }
    warm = last // 10
    return {
        "per_epoch": (points[last] - points[warm]) / 1000 / (last - warm),
        "to_exit": ended - points[last] / 1000,
        "cost": costs["cost"],
        "val_cost": costs["val_cost"],
    }


def peer(folder: Path, epochs: int, name: str) -> dict[str, Any]:
    """One peer in a separate process, with its wall time; its store exists already."""
    store = environment(folder)["MLFLOW_TRACKING_URI"]
    begin = time.perf_counter()
    found = child(
        "benchmarks.peers", name, str(epochs), OMP_NUM_THREADS="1", MLFLOW_TRACKING_URI=store
    )
    return {**found, "wall": time.perf_counter() - begin}


def cases_in(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by its title."""
    return {
        title: partial(command if title.startswith("runback") else peer, folder, epochs, case)
        for title, (case, epochs) in CASES.items()
    }


def main() -> None:
    """Measures, prints and draws."""
    quick = options(__doc__).quick
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_table(folder / "table.csv")
        empty_store(folder)
        cases = cases_in(folder)
        found = in_turn(cases, 1 if quick else 3)
        if not quick:  # the two that are near each other, more often
            again = in_turn({title: cases[title] for title in (BARE, OURS)}, 3)
            found = {title: found[title] + again.get(title, []) for title in found}
    report(found)


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """The table, the aims, and the plot."""
    per = {name: [r["per_epoch"] * 1e6 for r in results] for name, results in found.items()}
    micro = {name: median(values) for name, values in per.items()}
    head = ("", "us per epoch", "x bare", "epochs", "start and end, s", "cost", "val_cost")
    lines = [
        (
            name,
            f"{micro[name]:,.0f}",
            f"{ratio(per[name], per[BARE]):.2f}",
            *ends(name, found[name]),
        )
        for name in found
    ]
    to_exit = median(r["to_exit"] for r in found[OURS])
    aims = [
        Aim("Per epoch, of the bare loop with the same validation", ratio(per[OURS], per[BARE]), 1.10),
        Aim("Faster per epoch than the seed's loop with log_metric",
            ratio(per[SEED_LOGGED], per[OURS]), 25, at_least=True),
        Aim("The same with compile default",
            ratio(per[SEED_LOGGED], per[COMPILED]), 25, at_least=True),
        Aim("Faster per epoch than Lightning with MLFlowLogger",
            ratio(per[LIGHTNING_LOGGED], per[OURS]), 40, at_least=True),
        Aim("From the last epoch to exit, 20,000 points delivered", to_exit, 2.0, "s"),
    ]  # fmt: skip
    limit = ratio(per[SEED_LOGGED], per[BARE])
    body = [about(), "", *table(head, lines), "", *[aim.line() for aim in aims], "",
            uncompiled(limit), "", "![](tracked_training.png)"]  # fmt: skip
    publish("tracked_training", "Tracked training", body, PACKAGES)
    title = "One epoch of the seed's regression, 200 rows"
    bars("tracked_training.png", title, micro, "microseconds", form="{:,.0f}")


def ends(name: str, results: list[dict[str, Any]]) -> list[str]:
    """Cells: epochs, the seconds of a whole process that no epoch accounts for, the last costs."""
    epochs, last = CASES[name][1], results[-1]
    fixed = median(r["wall"] - r["per_epoch"] * epochs for r in results)
    costs = ["" if cost is None else f"{cost:.4g}" for cost in (last["cost"], last["val_cost"])]
    return [f"{epochs:,}", f"{fixed:.1f}", *costs]


def uncompiled(limit: float) -> str:
    """Why a loop of uncompiled steps comes no further."""
    return (
        f"The bare loop with validation is itself {limit:.1f} times as fast as the seed's loop with "
        "`log_metric`, which does not validate. Uncompiled, an epoch is some thirty operations of "
        "torch's, one by one, and most of its time is their calls: by parts, a good two fifths for "
        "forward and backward, a sixth for validation, a tenth each for the update, the order with "
        "its batches, the generators' seeds with the best weights, and 2.7 % for the journal. "
        "Compiled, the first three are one call."
    )


def about() -> str:
    """What the table shows."""
    where = "on the GPU" if device() == "cuda" else "one CPU thread"
    return (
        f"200 rows, `nn.Linear(2, 1)`, batch 128 (one step an epoch), SGD, {where}, the store is a "
        "local SQLite file that is there beforehand. runback is its whole command: every point "
        "journalled and delivered to MLflow by the courier, a checkpoint every "
        f"{CHECKPOINT_EVERY} epochs, the model registered, plots drawn; the time per epoch is that "
        "between the journalled time stamps of its epochs, the first tenth left out. Costs are "
        "those of each one's last epoch: slow peers train fewer epochs. The orders of rows differ, "
        "the first weights do not. HF Trainer hands its points, nine an epoch, to a thread of "
        "MLflow's: what is not delivered when the last epoch ends is in its start and end."
    )


if __name__ == "__main__":
    main()
