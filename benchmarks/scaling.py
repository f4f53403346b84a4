"""Whether the time per row and per epoch stays flat as rows and epochs grow."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import ROOT, Aim, child, curves, median, publish, table

ROWS = (10**3, 10**4, 10**5, 10**6, 10**7)
EPOCHS = (10**2, 10**3, 10**4, 10**5)
ALL_EPOCHS = (*EPOCHS, 10**6)  # with --full: five minutes more
FEATURES, BATCH = 8, 1000
SECONDS = 1.0


def per_row(rows: int) -> float:
    """Nanoseconds per row of an epoch of runback's loop over `rows` rows, 8 features, batch 1000."""
    from runback.config import TrainConfig
    from runback.data.batches import Order, TableDataset, TensorBatches
    from runback.models.builtin import Linear
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
    from runback.durable.journal import Journal
    from runback.jobs.preparation import prepare
    from runback.training.loop import EpochResult, run_epochs

    config = TrainConfig(data=str(ROOT / "data" / "non_linear.csv"), epochs=epochs)
    work = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        begin = time.process_time()
        for result in run_epochs(work.state, work.batches, work.validation, config):
            assert isinstance(result, EpochResult) and result.val_cost is not None
            journal.record([("cost", result.cost), ("val_cost", result.val_cost)], result.epoch)
            journal.flush_if_due()
        journal.flush()
        return (time.process_time() - begin) / epochs * 1e6


def listed(sizes: Sequence[int], values: Sequence[float]) -> list[tuple[str, str]]:
    """Rows of a table."""
    return [(f"{n:,}", f"{v:.0f}") for n, v in zip(sizes, values, strict=True)]


def main() -> None:
    """Measures, prints and draws."""
    if sys.argv[1:2] == ["--child"]:
        what, size = sys.argv[2], int(sys.argv[3])
        print(json.dumps({"value": per_row(size) if what == "rows" else per_epoch(size)}))
        return
    sizes = ALL_EPOCHS if "--full" in sys.argv else EPOCHS
    module = "benchmarks.scaling"
    rows = [child(module, "--child", "rows", str(n))["value"] for n in ROWS]
    epochs = [child(module, "--child", "epochs", str(n))["value"] for n in sizes]
    aims = [
        Aim("Per row, 10,000,000 rows of 100,000", rows[-1] / rows[2], 2),
        Aim(f"Per epoch, {sizes[-1]:,} epochs of 1,000", epochs[-1] / epochs[1], 1.2),
    ]
    body = [
        f"Linear model, {FEATURES} features, batch {BATCH:,}, one CPU thread, in memory; the",
        "processor's time.",
        "Below 100,000 rows the fixed cost of an epoch shows; above, rows no longer fit the",
        "processor's",
        "caches and are gathered at random from main memory.",
        "",
        *table(("rows", "ns per row and epoch"), listed(ROWS, rows)),
        "",
        "The seed's regression with validation and every point in the journal, courier not",
        "counted:",
        "",
        *table(("epochs", "us per epoch"), listed(sizes, epochs)),
        "",
        *[aim.line() for aim in aims],
        "",
        "![](scaling.png)",
    ]
    publish("scaling", "Scaling", body)
    curves(
        "scaling.png", ["Time per row", "Time per epoch, 200 rows"],
        [(ROWS, rows), (sizes, epochs)],
        [("rows", "nanoseconds per row and epoch"), ("epochs", "microseconds per epoch")],
    )  # fmt: skip


if __name__ == "__main__":
    main()
