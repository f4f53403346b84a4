"""How long the loop stands still for a checkpoint of 200 MB, and what the writing costs it beside."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.common import Aim, bars, child, in_turn, median, options, publish, table

# Three tensors of this many numbers: the weights and both of Adam's moments make 201 MB.
WIDTH, EVERY_SECONDS = 4096, 30.0
OURS = "runback: copy, and write on another thread"
PLAIN = "torch.save"
DURABLE = "torch.save, fsync, SHA-256"


def training() -> tuple[Any, Callable[[], float]]:
    """A state of 201 MB, and a step of it that takes some milliseconds; returns its seconds."""
    from runback.config import TrainConfig
    from runback.model.builtin import Mlp
    from runback.training.state import TrainState
    from runback.training.steps import make_step

    config = TrainConfig(optimizer="adam", model="mlp")
    model = Mlp(WIDTH, 1, [WIDTH])
    state = TrainState.fresh(model, config, torch.device("cpu"))
    step, x, y = (
        make_step(state, functional.mse_loss, config),
        torch.randn(8, WIDTH),
        torch.randn(8, 1),
    )

    def timed() -> float:
        begin = time.perf_counter()
        step(x, y)
        return time.perf_counter() - begin

    return state, timed


def checkpoints(which: str) -> dict[str, float]:
    """Seconds that the loop stands still, and seconds lost to slower steps until all is on disk."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    state, step = training()
    with tempfile.TemporaryDirectory(dir=".") as name:
        save, busy = SAVERS[which](Path(name))
        alone = median(step() for _ in range(20))
        still, slowed = [], []
        for _ in range(3):
            state.epoch += 1
            begin = time.perf_counter()
            save(state)
            still.append(time.perf_counter() - begin)
            lost = 0.0
            while busy():
                lost += step() - alone
            slowed.append(max(0.0, lost))
        size = max(file.stat().st_size for file in Path(name).rglob("*.pt"))
    return {"still": median(still[1:]), "slowed": median(slowed[1:]), "mb": size / 1e6}


def ours(folder: Path) -> tuple[Callable[[Any], None], Callable[[], bool]]:
    """The steps of `Run.checkpoint`: check for NaN, copy, submit to the writer."""
    from runback.seeding import generator_states
    from runback.stateful import snapshot
    from runback.storage.checkpoint_writer import CheckpointWriter
    from runback.storage.checkpoints import CheckpointKey, write_checkpoint

    owner = CheckpointKey("benchmark", "0" * 64)
    writer = CheckpointWriter(lambda state: write_checkpoint(folder, state, owner, {}) and None)

    def save(state: Any) -> None:
        kept = {f"{name}_state_dict": snapshot(target) for name, target in state.kept().items()}
        position = {"epoch": state.epoch, "batch": state.batch, "generators": generator_states()}
        writer.submit({"model": "mlp", **kept, **position})

    return save, lambda: writer._jobs.unfinished_tasks > 0


def plain(folder: Path) -> tuple[Callable[[Any], None], Callable[[], bool]]:
    """A plain `torch.save`."""
    return lambda state: torch.save(_states(state), folder / "plain.pt"), lambda: False


def durable(folder: Path) -> tuple[Callable[[Any], None], Callable[[], bool]]:
    """`torch.save` with fsync and a digest."""
    from runback.storage.atomic import sha256_of

    def save(state: Any) -> None:
        with (folder / "durable.pt").open("wb") as file:
            torch.save(_states(state), file)
            os.fsync(file.fileno())
        sha256_of(folder / "durable.pt")

    return save, lambda: False


def _states(state: Any) -> dict[str, Any]:
    module: nn.Module = state.model
    return {"model": module.state_dict(), "optimizer": state.optimizer.state_dict()}


SAVERS = {"ours": ours, "plain": plain, "durable": durable}
NAMES = {OURS: "ours", PLAIN: "plain", DURABLE: "durable"}


def main() -> None:
    """Measures, prints and draws."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(checkpoints(sys.argv[2])))
        return
    rounds = 1 if options(__doc__).quick else 3
    module = "benchmarks.checkpointing"
    report(in_turn({k: partial(child, module, "--child", v) for k, v in NAMES.items()}, rounds))


def report(found: dict[str, list[dict[str, float]]]) -> None:
    """The table, the aim, and the plot."""
    still = {k: median(r["still"] for r in v) for k, v in found.items()}
    slowed = {k: median(r["slowed"] for r in v) for k, v in found.items()}
    rows = [
        (k, f"{still[k] * 1e3:,.0f}", f"{slowed[k] * 1e3:,.0f}",
         f"{still[k] / EVERY_SECONDS:.2%}", f"{found[k][-1]['mb']:.0f}")
        for k in found
    ]  # fmt: skip
    body = [
        "An MLP with Adam; steps go on while the writer writes, and what they lose by it is the "
        "second column. runback's file is durable, read back and verified before its manifest is "
        "written.",
        "",
        *table(("", "stands still, ms", "slower steps, ms", "still, every 30 s", "MB"), rows),
        "",
        Aim("Stands still, of the time, with a checkpoint every 30 s",
            100 * still[OURS] / EVERY_SECONDS, 2, "%").line(),
        "",
        "![](checkpointing.png)",
    ]  # fmt: skip
    publish("checkpointing", "Checkpoints of 200 MB", body)
    title = "The loop stands still for a checkpoint of 200 MB"
    values = {k: v * 1e3 for k, v in still.items()}
    bars("checkpointing.png", title, values, "milliseconds", log=False)


if __name__ == "__main__":
    main()
