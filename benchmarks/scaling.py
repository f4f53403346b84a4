"""Whether the time per row and per epoch stays flat as rows and epochs grow.

Rows from 1e3 to 1e7 and epochs from 1e2 to 1e5 take about a minute; `--full` adds 1e6 epochs, which
take five minutes more (some 300 us an epoch).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import ROOT, Aim, child, curves, median, options, publish, table

ROWS = (10**3, 10**4, 10**5, 10**6, 10**7)
EPOCHS = (10**2, 10**3, 10**4, 10**5)
LAST_EPOCHS = 10**6  # with --full
FEATURES, BATCH = 8, 1000
SECONDS = 1.0
# What the largest sizes are compared with: here a table no longer fits the processor's caches ...
FEW_ROWS = 10**5
# ... and here the first epochs, slower than the others, no longer count.
FEW_EPOCHS = 10**3


def per_row(rows: int) -> float:
    """Nanoseconds per row of an epoch of runback's loop over `rows` rows, 8 features, batch 1000."""
    from runback.config import TrainConfig
    from runback.data.batches import Order, TableDataset, TensorBatches
    from runback.model.builtin import Linear
    from runback.training.loop import run_epochs
    from runback.training.state import TrainState

    torch.set_num_threads(1)
    config = TrainConfig(model="linear", batch_size=BATCH, epochs=10**6)
    part = TableDataset(torch.randn(rows, FEATURES), torch.randn(rows, 1))
    batches = TensorBatches(part, Order(rows, BATCH, shuffle=True, drop_last=True, seed=0))
    state = TrainState.fresh(Linear(FEATURES, 1), config, torch.device("cpu"))
    training, times = run_epochs(state, batches, None, config), []
    while len(times) < 4 or sum(times) < SECONDS:
        begin = time.process_time()
        next(training)
        times.append(time.process_time() - begin)
    return median(times[1:]) / rows * 1e9


def per_epoch(epochs: int) -> float:
    """Microseconds per epoch of the seed's regression with its points journalled, no courier."""
    from runback.config import TrainConfig
    from runback.storage.journal import Journal
    from runback.training.loop import EpochResult, run_epochs
    from runback.training.setup import prepare

    config = TrainConfig(data=str(ROOT / "data" / "non_linear.csv"), epochs=epochs)
    work = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        begin = time.process_time()
        for result in run_epochs(work.state, work.batches, work.validation, config):
            assert isinstance(result, EpochResult) and result.val_cost is not None
            journal.reach(result.epoch)
            journal.record([("cost", result.cost), ("val_cost", result.val_cost)], result.epoch)
            journal.flush_if_due()
        journal.flush()
        return (time.process_time() - begin) / epochs * 1e6


def listed(found: dict[int, float]) -> list[tuple[str, str]]:
    """Rows of a table."""
    return [(f"{size:,}", f"{value:.0f}") for size, value in found.items()]


def measured(what: str, sizes: Sequence[int]) -> dict[int, float]:
    """The value of each size, each measured in a separate process."""
    values = {}
    for size in sizes:
        values[size] = child("benchmarks.scaling", "--child", what, str(size))["value"]
        print(f"  {size:,} {what}: {values[size]:.0f}", file=sys.stderr, flush=True)
    return values


def main() -> None:
    """Measures, prints and draws."""
    if sys.argv[1:2] == ["--child"]:
        what, size = sys.argv[2], int(sys.argv[3])
        print(json.dumps({"value": per_row(size) if what == "rows" else per_epoch(size)}))
        return
    arguments = options(__doc__, full=f"{LAST_EPOCHS:,} epochs too: five minutes more")
    few = -1 if arguments.quick else None
    last = (LAST_EPOCHS,) if arguments.full else ()
    report(measured("rows", ROWS[:few]), measured("epochs", (*EPOCHS[:few], *last)))


def report(rows: dict[int, float], epochs: dict[int, float]) -> None:
    """The tables, the aims, and the plot."""
    most_rows, most_epochs = max(rows), max(epochs)
    aims = [
        Aim(f"Per row, {most_rows:,} rows of {FEW_ROWS:,}", rows[most_rows] / rows[FEW_ROWS], 2),
        Aim(f"Per epoch, {most_epochs:,} epochs of {FEW_EPOCHS:,}",
            epochs[most_epochs] / epochs[FEW_EPOCHS], 1.2),
    ]  # fmt: skip
    body = [
        f"Linear model, {FEATURES} features, batch {BATCH:,}, one CPU thread, in memory; the "
        f"processor's time. Below {FEW_ROWS:,} rows the fixed cost of an epoch shows; above, rows "
        "no longer fit the processor's caches and are gathered at random from main memory.",
        "",
        *table(("rows", "ns per row and epoch"), listed(rows)),
        "",
        "The seed's regression with validation and every point in the journal, courier not "
        "counted:",
        "",
        *table(("epochs", "us per epoch"), listed(epochs)),
        "",
        *[aim.line() for aim in aims],
        "",
        "![](scaling.png)",
    ]
    publish("scaling", "Scaling", body)
    curves(
        "scaling.png", ["Time per row", "Time per epoch, 200 rows"],
        [(list(found), list(found.values())) for found in (rows, epochs)],
        [("rows", "nanoseconds per row and epoch"), ("epochs", "microseconds per epoch")],
    )  # fmt: skip


if __name__ == "__main__":
    main()
