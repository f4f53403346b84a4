"""A table of 2,000,000 rows x 32 features: reading it, an epoch over it, the memory of both.

The epochs run on the GPU where there is one; the DataLoaders' batches then go there one by one.
`--quick` takes a fifth of the rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import (
    Aim,
    bars,
    child,
    device,
    in_turn,
    measured,
    median,
    options,
    publish,
    ratio,
    table,
)

ROWS, QUICK_ROWS = 2_000_000, 400_000
FEATURES, BATCH, HIDDEN, LR = 32, 8192, (64, 64), 1e-3
# The DataLoaders gather row by row in Python: they go over this many batches, not over all.
LOADER_BATCHES = 25
COLUMNS = [*(f"x{i}" for i in range(FEATURES)), "y"]
OURS = "runback"
BARE = "bare index loop"


def write_table(path: Path, rows: int) -> None:
    """A CSV of normal numbers with five decimals, and a target that is linear in them."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    random = np.random.default_rng(0)
    weights = random.standard_normal(FEATURES)
    with pacsv.CSVWriter(path, pa.schema([(name, pa.float64()) for name in COLUMNS])) as writer:
        for low in range(0, rows, 100_000):
            x = random.standard_normal((min(100_000, rows - low), FEATURES)).round(5)
            values = [*x.T, (x @ weights).round(5)]
            writer.write_batch(pa.record_batch(values, names=COLUMNS))


# What runs in processes of their own


def reading(which: str, path: str) -> dict[str, float]:
    """Reads the table once; the libraries are imported and used before."""
    import pandas as pd

    from runback.config import TrainConfig
    from runback.data.table import read_table
    from runback.training.setup import prepare

    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        write_table(small, 100)
        prepare(TrainConfig(data=str(small), model="mlp", batch_size=8))
        pd.read_csv(small, engine="pyarrow")
    if which == "pandas":
        return measured(partial(pd.read_csv, path, engine="pyarrow"))
    if which == "read":
        return measured(partial(read_table, path, (), (), torch.float32))
    return measured(partial(prepare, TrainConfig(data=path, model="mlp", batch_size=BATCH)))


def epochs(which: str, rows: int) -> dict[str, float]:
    """Seconds per batch of the first epoch and of the next; a DataLoader has no more than one.

    Each epoch ends with its cost as a float, so nothing is left to wait for on a GPU.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(rows, FEATURES), torch.randn(rows, 1)
    if not which.startswith("DataLoader"):
        x, y = x.to(device()), y.to(device())
    training = TRAININGS[which](x, y)
    times, cost = [], 0.0
    for _ in range(1 if which.startswith("DataLoader") else 3):
        begin = time.perf_counter()
        count, cost = next(training)
        times.append((time.perf_counter() - begin) / count)
    return {"first": times[0], "next": min(times[1:] or times), "cost": cost}


Training = Iterator[tuple[int, float]]
Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def ours(x: Tensor, y: Tensor) -> Training:
    """runback's batches, step and loop."""
    from runback.config import TrainConfig
    from runback.data.batches import Order, TableDataset, TensorBatches
    from runback.model.builtin import Mlp
    from runback.training.loop import EpochResult, run_epochs
    from runback.training.state import TrainState

    config = TrainConfig(model="mlp", lr=LR, batch_size=BATCH, epochs=100)
    order = Order(len(x), BATCH, shuffle=True, drop_last=True, seed=0)
    batches = TensorBatches(TableDataset(x, y), order)
    state = TrainState.fresh(Mlp(FEATURES, 1, HIDDEN), config, x.device)
    for result in run_epochs(state, batches, None, config):
        assert isinstance(result, EpochResult)
        yield len(batches), result.cost


def bare(x: Tensor, y: Tensor) -> Training:
    """A permutation and `x[index]`, as one writes it."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(x), device=x.device)
        for low in range(0, len(x) - BATCH + 1, BATCH):
            index = order[low : low + BATCH]
            yield x[index], y[index]

    return plain(batches)


def loader(x: Tensor, y: Tensor, workers: int) -> Training:
    """`DataLoader(TensorDataset)` over the first rows."""
    rows = LOADER_BATCHES * BATCH
    data = TensorDataset(x[:rows], y[:rows])
    made = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    return plain(lambda: ((x.to(device()), y.to(device())) for x, y in made))


def plain(batches: Batches) -> Training:
    """The loop around given batches."""
    widths = (FEATURES, *HIDDEN)
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 1)).to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    while True:
        total, count = torch.zeros((), device=device()), 0
        for x, y in batches():
            optimizer.zero_grad()
            cost = nn.functional.mse_loss(model(x), y)
            cost.backward()
            optimizer.step()
            total += cost.detach()
            count += 1
        yield count, total.item() / count


TRAININGS: dict[str, Callable[[Tensor, Tensor], Training]] = {
    OURS: ours,
    BARE: bare,
    "DataLoader, 0 workers": partial(loader, workers=0),
    "DataLoader, 2 workers": partial(loader, workers=2),
}
READINGS = {
    "runback, reading": "read",
    "runback, reading and splitting": "prepare",
    "pandas, engine pyarrow": "pandas",
}


def main() -> None:
    """Measures, prints and draws."""
    if sys.argv[1:2] == ["--child"]:
        what, which, last = sys.argv[2:]
        print(json.dumps(reading(which, last) if what == "reading" else epochs(which, int(last))))
        return
    quick = options(__doc__).quick
    rows, rounds = (QUICK_ROWS, 1) if quick else (ROWS, 2)
    one = partial(child, "benchmarks.large_table", "--child")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        write_table(path, rows)
        read = in_turn(
            {k: partial(one, "reading", v, str(path)) for k, v in READINGS.items()}, rounds
        )
    part = rows * 8 // 10
    trained = in_turn({k: partial(one, "epochs", k, str(part)) for k in TRAININGS}, rounds)
    report(rows, read, trained)


Found = dict[str, list[dict[str, float]]]


def report(rows: int, read: Found, trained: Found) -> None:
    """The tables, the aims, and the plot."""
    tensors, part = rows * (FEATURES + 1) * 4 / 2**20, rows * 8 // 10
    steps = part // BATCH
    read_lines, read_aims = about_reading(read, tensors)
    trained_lines, trained_aims = about_training(trained, steps)
    where = "on the GPU" if device() == "cuda" else "one CPU thread"
    body = [
        f"{rows:,} rows x {FEATURES} features and a target, CSV; float32 tensors of {tensors:.0f} "
        "MiB. Peak memory is the process's largest resident size less that before reading, "
        "libraries loaded.",
        "",
        *read_lines,
        "",
        f"MLP 64-64, batch {BATCH}, SGD, {where}, {part:,} training rows, {steps} steps an epoch, "
        f"no validation. The DataLoaders go over {LOADER_BATCHES} batches; their epochs are scaled "
        "from those.",
        "",
        *trained_lines,
        "",
        *[aim.line() for aim in (*read_aims, *trained_aims)],
        "",
        "![](large_table.png)",
    ]
    publish("large_table", "Large table", body, ("pandas", "pyarrow"))
    per_epoch = {k: median(r["next"] for r in v) * steps for k, v in trained.items()}
    bars("large_table.png", f"One epoch over {part:,} rows, MLP 64-64", per_epoch, "seconds")


def about_reading(read: Found, tensors: float) -> tuple[list[str], list[Aim]]:
    """The table of the readings and its aims; `tensors` in MiB."""
    seconds = {k: [r["seconds"] for r in v] for k, v in read.items()}
    peak = {k: median(r["peak"] for r in v) for k, v in read.items()}
    alone, whole, pandas = READINGS
    lines = [
        (k, f"{median(seconds[k]):.2f}", f"{ratio(seconds[k], seconds[pandas]):.2f}",
         f"{peak[k]:,.0f}", f"{peak[k] / tensors:.2f}")
        for k in (pandas, alone, whole)
    ]  # fmt: skip
    aims = [
        Aim('Reading, of `pandas.read_csv(engine="pyarrow")`',
            ratio(seconds[alone], seconds[pandas]), 1.2),
        Aim("Peak memory of reading and splitting, of the tensors", peak[whole] / tensors, 3),
    ]  # fmt: skip
    return table(("reading", "s", "x pandas", "peak, MiB", "x tensors"), lines), aims


def about_training(trained: Found, steps: int) -> tuple[list[str], list[Aim]]:
    """The table of the trainings and its aims."""
    per = {k: [r["next"] * 1e3 for r in v] for k, v in trained.items()}
    lines = [
        (k, f"{median(r['first'] for r in trained[k]) * steps:.2f}",
         f"{1e3 / (median(per[k]) * steps):.3f}", f"{median(per[k]):.2f}",
         f"{ratio(per[k], per[BARE]):.2f}", f"{trained[k][-1]['cost']:.4f}")
        for k in trained
    ]  # fmt: skip
    loader_over_ours = min(ratio(per[k], per[OURS]) for k in per if k.startswith("DataLoader"))
    aims = [
        Aim("An epoch, of the bare index loop", ratio(per[OURS], per[BARE]), 1.05),
        Aim("An epoch, faster than the faster DataLoader", loader_over_ours, 10, at_least=True),
    ]
    head = ("training", "first epoch, s", "epochs/s", "ms a step", "x bare", "cost")
    return table(head, lines), aims


if __name__ == "__main__":
    main()
