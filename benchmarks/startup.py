"""How long a command takes beside its training: help, a usage error, a run of 20 epochs."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.common import (
    ROOT,
    Aim,
    bars,
    empty_store,
    environment,
    in_turn,
    median,
    options,
    publish,
    ratio,
    table,
)

HELP, ARGPARSE = "runback --help", 'python -c "import argparse"'
TRAIN = "runback train, 20 epochs"
SCRIPT = "a script with torch and mlflow, 20 epochs"
RUNBACK = (sys.executable, "-m", "runback")
BY_HAND = """
import torch, mlflow
x, y = torch.randn(160, 2), torch.randn(160, 1)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
with mlflow.start_run():
    for epoch in range(20):
        optimizer.zero_grad()
        cost = torch.nn.functional.mse_loss(model(x), y)
        cost.backward()
        optimizer.step()
        mlflow.log_metric("cost", cost.item(), step=epoch)
"""
SHORT = {
    ARGPARSE: (sys.executable, "-c", "import argparse"),
    HELP: (*RUNBACK, "--help"),
    "runback, a usage error": (*RUNBACK, "train", "--epohs", "3"),
}
LONG = {
    'python -c "import torch"': (sys.executable, "-c", "import torch"),
    'python -c "import mlflow"': (sys.executable, "-c", "import mlflow"),
    SCRIPT: (sys.executable, "-c", BY_HAND),
    TRAIN: (*RUNBACK, "train", "--data", str(ROOT / "data" / "non_linear.csv"), "--epochs", "20"),
}


def once(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Seconds from start to exit, and the processor's seconds of all processes."""
    env = {**environment(folder), "OMP_NUM_THREADS": "1"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(arguments, cwd=folder, env=env, capture_output=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measures, prints and draws."""
    quick = options(__doc__).quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty_store(folder)
        rounds = {"short": 7, "long": 1} if quick else {"short": 25, "long": 3}
        found = in_turn({k: partial(once, v, folder) for k, v in SHORT.items()}, rounds["short"])
        found |= in_turn({k: partial(once, v, folder) for k, v in LONG.items()}, rounds["long"])
    wall = {k: [w for w, _ in v] for k, v in found.items()}
    rows = [
        (f"`{k}`" if k.startswith("python") else k, f"{median(wall[k]) * 1e3:,.0f}",
         f"{median(c for _, c in found[k]) * 1e3:,.0f}")
        for k in found
    ]  # fmt: skip
    body = [
        *table(("", "from start to exit, ms", "processor, ms"), rows),
        "",
        Aim("`runback --help`, of `import argparse`", ratio(wall[HELP], wall[ARGPARSE]), 3).line(),
        "",
        f"A run of 20 epochs takes {ratio(wall[TRAIN], wall[SCRIPT]):.2f} times as long as the "
        "script, which logs 20 points and leaves behind neither checkpoint nor model, scores, "
        "plots or registered version.",
        "",
        "![](startup.png)",
    ]
    publish("startup", "Start-up", body)
    bars("startup.png", "From start to exit", {k: median(v) for k, v in wall.items()}, "seconds")


if __name__ == "__main__":
    main()
