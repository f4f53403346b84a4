"""A table of 2,000,000 rows x 32 features: reading it, an epoch over it, the memory of both."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import Aim, bars, child, in_turn, median, publish, ratio, table

ROWS, FEATURES, BATCH, HIDDEN, LR = 2_000_000, 32, 8192, (64, 64), 1e-3
# The DataLoaders gather row by row in Python: they go over this many batches, not over all.
LOADER_BATCHES = 25
COLUMNS = [*(f"x{i}" for i in range(FEATURES)), "y"]
OURS = "runback"
BARE = "bare index loop"


def write_table(path: Path, rows: int = ROWS) -> None:
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


def memory(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def reading(which: str, path: str) -> dict[str, float]:
    """Reads the table once; the libraries are imported and used before."""
    import pandas as pd

    from runback.config import TrainConfig
    from runback.data.table import read_table
    from runback.jobs.preparation import prepare

    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        write_table(small, 100)
        prepare(TrainConfig(data=str(small), model="mlp", batch_size=8))
        pd.read_csv(small, engine="pyarrow")
    base, begin = memory("VmRSS"), time.perf_counter()
    if which == "pandas":
        kept = pd.read_csv(path, engine="pyarrow")
    elif which == "read":
        kept = read_table(path, (), (), torch.float32)
    else:
        kept = prepare(TrainConfig(data=path, model="mlp", batch_size=BATCH))
    seconds = time.perf_counter() - begin
    del kept
    return {"seconds": seconds, "peak": memory("VmHWM") - base}


def epochs(which: str) -> dict[str, float]:
    """Seconds per batch of the first epoch and of the next; a DataLoader has no more than one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = ROWS * 8 // 10
    x, y = torch.randn(rows, FEATURES), torch.randn(rows, 1)
    training = TRAININGS[which](x, y)
    times, cost = [], 0.0
    for _ in range(1 if which.startswith("DataLoader") else 3):
        begin = time.perf_counter()
        count, cost = next(training)
        times.append((time.perf_counter() - begin) / count)
    return {"first": times[0], "next": min(times[1:] or times), "cost": cost}


Training = Iterator[tuple[int, float]]
Batches = Callable[[], Iterable[Sequence[Tensor]]]


def ours(x: Tensor, y: Tensor) -> Training:
    """runback's batches, step and loop."""
    from runback.config import TrainConfig
    from runback.data.batches import Order, TableDataset, TensorBatches
    from runback.models.builtin import Mlp
    from runback.training.loop import EpochResult, run_epochs
    from runback.training.state import TrainState

    config = TrainConfig(model="mlp", lr=LR, batch_size=BATCH, epochs=100)
    order = Order(len(x), BATCH, shuffle=True, drop_last=True, seed=0)
    batches = TensorBatches(TableDataset(x, y), order)
    state = TrainState.fresh(Mlp(FEATURES, 1, HIDDEN), config, torch.device("cpu"))
    for result in run_epochs(state, batches, None, config):
        assert isinstance(result, EpochResult)
        yield len(batches), result.cost


def bare(x: Tensor, y: Tensor) -> Training:
    """A permutation and `x[index]`, as one writes it."""

    def batches() -> Iterator[Sequence[Tensor]]:
        order = torch.randperm(len(x))
        for low in range(0, len(x) - BATCH + 1, BATCH):
            index = order[low : low + BATCH]
            yield x[index], y[index]

    return plain(batches)


def loader(x: Tensor, y: Tensor, workers: int) -> Training:
    """`DataLoader(TensorDataset)` over the first rows."""
    rows = LOADER_BATCHES * BATCH
    data = TensorDataset(x[:rows], y[:rows])
    made = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    return plain(lambda: made)


def plain(batches: Batches) -> Training:
    """The loop around given batches."""
    widths = (FEATURES, *HIDDEN)
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    while True:
        total, count = torch.zeros(()), 0
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
    module = "benchmarks.large_table"
    if sys.argv[1:2] == ["--child"]:
        what, which, *path = sys.argv[2:]
        print(json.dumps(reading(which, *path) if what == "reading" else epochs(which)))
        return
    rounds = 1 if "--quick" in sys.argv else 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        write_table(path)
        arguments = {k: ("--child", "reading", v, str(path)) for k, v in READINGS.items()}
        read = in_turn({k: partial(child, module, *a) for k, a in arguments.items()}, rounds)
    cases = {k: partial(child, module, "--child", "epochs", k) for k in TRAININGS}
    trained = in_turn(cases, rounds)
    report(read, trained)


def report(
    read: dict[str, list[dict[str, float]]], trained: dict[str, list[dict[str, float]]]
) -> None:
    """The tables, the aims, and the plot."""
    tensors = ROWS * (FEATURES + 1) * 4 / 2**20
    seconds = {k: [r["seconds"] for r in v] for k, v in read.items()}
    peak = {k: median(r["peak"] for r in v) for k, v in read.items()}
    per = {k: [r["next"] * 1e3 for r in v] for k, v in trained.items()}
    batches = ROWS * 8 // 10 // BATCH
    reading_, whole, pandas = READINGS
    rows_read = [
        (k, f"{median(seconds[k]):.2f}", f"{ratio(seconds[k], seconds[pandas]):.2f}",
         f"{peak[k]:,.0f}", f"{peak[k] / tensors:.2f}")
        for k in (pandas, reading_, whole)
    ]  # fmt: skip
    rows_trained = [
        (k, f"{median(r['first'] for r in trained[k]) * batches:.2f}",
         f"{1e3 / (median(per[k]) * batches):.3f}", f"{median(per[k]):.2f}",
         f"{ratio(per[k], per[BARE]):.2f}", f"{trained[k][-1]['cost']:.4f}")
        for k in trained
    ]  # fmt: skip
    slowest = min(ratio(per[k], per[OURS]) for k in per if k.startswith("DataLoader"))
    aims = [
        Aim("Reading, of `pandas.read_csv(engine=\"pyarrow\")`",
            ratio(seconds[reading_], seconds[pandas]), 1.2),
        Aim("Peak memory of reading and splitting, of the tensors", peak[whole] / tensors, 3),
        Aim("An epoch, of the bare index loop", ratio(per[OURS], per[BARE]), 1.05),
        Aim("An epoch, faster than the faster DataLoader", slowest, 10, at_least=True),
    ]  # fmt: skip
    body = [
        f"{ROWS:,} rows x {FEATURES} features and a target, CSV; float32 tensors of {tensors:.0f}",
        "MiB.",
        "Peak memory is the process's largest resident size less that before reading, libraries",
        "loaded.",
        "",
        *table(("reading", "s", "x pandas", "peak, MiB", "x tensors"), rows_read),
        "",
        f"MLP 64-64, batch {BATCH}, SGD, one CPU thread, {ROWS * 8 // 10:,} training rows,",
        f"{batches} steps",
        f"an epoch, no validation. The DataLoaders go over {LOADER_BATCHES} batches; their epochs",
        "are scaled",
        "from those.",
        "",
        *table(
            ("training", "first epoch, s", "epochs/s", "ms a step", "x bare", "cost"), rows_trained
        ),
        "",
        *[aim.line() for aim in aims],
        "",
        "![](large_table.png)",
    ]
    publish("large_table", "Large table", body, ("pandas", "pyarrow"))
    per_epoch = {k: median(v) * batches / 1e3 for k, v in per.items()}
    bars(
        "large_table.png",
        f"One epoch over {ROWS * 8 // 10:,} rows, MLP 64-64",
        per_epoch,
        "seconds",
    )


if __name__ == "__main__":
    main()
