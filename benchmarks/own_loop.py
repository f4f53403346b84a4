"""A loop of one's own, plain and inside runback.run: what the open run adds to each epoch."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import runback
from benchmarks.common import (
    Aim,
    child,
    empty_store,
    environment,
    in_turn,
    median,
    options,
    publish,
    ratio,
    table,
)

ROWS, COLUMNS, WIDTH, BATCH = 20_000, 20, 256, 100
PLAIN, EPOCHS, BATCHES = "plain loop", "runback.run, epochs", "runback.run, epochs and batches"
CASES = {PLAIN: "plain", EPOCHS: "epochs", BATCHES: "batches"}


def loop(epochs: Iterable[int], read: Any, log: Any, parts: tuple[Any, ...]) -> list[float]:
    """Trains; returns the time at the end of each epoch."""
    model, optimizer, loader = parts
    ends = []
    for _ in epochs:
        for x, y in read(loader):
            cost = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
        log(cost=cost.item())
        ends.append(time.perf_counter())
    return ends


def setup() -> tuple[nn.Module, torch.optim.Optimizer, DataLoader[Any]]:
    """The same for all cases."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.randn(ROWS, COLUMNS)
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), BATCH, shuffle=True)
    model = nn.Sequential(nn.Linear(COLUMNS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    return model, torch.optim.Adam(model.parameters()), loader


def case(name: str, n_epochs: int) -> dict[str, float]:
    """Seconds an epoch, after the first."""
    parts = setup()
    if name == "plain":
        ends = loop(range(n_epochs), iter, lambda **_: None, parts)
    else:
        with runback.run("benchmark") as run:
            run.keep(model=parts[0], optimizer=parts[1])
            read = run.batches if name == "batches" else iter
            ends = loop(run.epochs(n_epochs), read, run.log, parts)
    return {"epoch": (ends[-1] - ends[0]) / (n_epochs - 1)}


def main() -> None:
    """Measures and prints."""
    quick = options(__doc__).quick
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        empty_store(folder)
        env = {k: v for k, v in environment(folder).items() if k.startswith(("MLFLOW", "RUNBACK"))}
        n_epochs = "5" if quick else "40"
        runs = {
            title: partial(child, "benchmarks.own_loop", name, n_epochs, **env)
            for title, name in CASES.items()
        }
        found = in_turn(runs, 1 if quick else 5)
    seconds = {title: [one["epoch"] for one in many] for title, many in found.items()}
    publish("own_loop", "Own loop", list(report(seconds)))


def report(seconds: dict[str, list[float]]) -> Iterator[str]:
    """The section's lines."""
    yield (
        f"{ROWS} rows, {ROWS // BATCH} batches an epoch from a DataLoader, a checkpoint after each "
        "epoch. Seconds an epoch, after the first."
    )
    yield ""
    yield from table(
        ("loop", "s an epoch", "of plain"),
        [
            (title, f"{median(many):.4f}", f"{ratio(many, seconds[PLAIN]):.3f}")
            for title, many in seconds.items()
        ],
    )
    yield ""
    yield Aim(
        "epochs and batches beside plain", ratio(seconds[BATCHES], seconds[PLAIN]), 1.05
    ).line()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CASES.values():
        sys.stdout.write(json.dumps(case(sys.argv[1], int(sys.argv[2]))) + "\n")
    else:
        main()
