"""Steps a second of a small MLP in each `compile` mode, on the GPU where there is one.

Each mode trains in a process of its own through runback's own loop, in turn with the others. The
first round compiles from nothing, the next ones find the first one's compile cache, as a second run
on a machine does. `--full` adds max-autotune, which tries kernels for minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.common import (
    Aim,
    bars,
    child,
    device,
    in_turn,
    median,
    options,
    publish,
    ratio,
    table,
)
from runback.training.compiling import missing_compiler

ROWS, FEATURES, BATCH, HIDDEN, LR = 1_280, 8, 128, (64, 64), 1e-3
STEPS = ROWS // BATCH
EAGER, MODES = "none", ("none", "default", "reduce-overhead")
SLOWEST_MODE = "max-autotune"  # with --full
# CUDA graphs are captured in the second and third call, not in the first.
WARM_UP = 30
SECONDS, QUICK_SECONDS, ROUNDS = 3.0, 0.5, 3


def epochs(mode: str) -> Iterator[float]:
    """The cost of each epoch of runback's loop over a table in the device's memory."""
    from runback.config import TrainConfig
    from runback.data.batches import Order, TableDataset, TensorBatches
    from runback.model.builtin import Mlp
    from runback.training.loop import EpochResult, run_epochs
    from runback.training.state import TrainState

    place = torch.device(device())
    config = TrainConfig(
        model="mlp", lr=LR, batch_size=BATCH, epochs=10**9, patience=0, compile=mode
    )
    x = torch.randn(ROWS, FEATURES)
    part = TableDataset(x.to(place), x.sum(1, keepdim=True).to(place))
    batches = TensorBatches(part, Order(ROWS, BATCH, shuffle=True, drop_last=True, seed=0))
    state = TrainState.fresh(Mlp(FEATURES, 1, HIDDEN), config, place)
    for result in run_epochs(state, batches, None, config):
        assert isinstance(result, EpochResult)
        yield result.cost


def measure(mode: str, seconds: float) -> dict[str, float]:
    """Steps a second after a warm-up, the seconds of the first epoch, and the cost that shows."""
    warnings.simplefilter("ignore")  # what torch.compile says of its own code
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training, begin = epochs(mode), now()
    next(training)
    first = now() - begin
    costs = [next(training) for _ in range(1, WARM_UP)]
    count, begin = 0, now()
    while time.perf_counter() - begin < seconds:
        next(training)
        count += 1
    return {"rate": count * STEPS / (now() - begin), "first": first, "cost": costs[-1]}


def now() -> float:
    """The time after a device synchronization."""
    if device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measures, prints and draws."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(sys.argv[2], float(sys.argv[3]))))
        return
    arguments = options(__doc__, full=f"{SLOWEST_MODE} too: minutes more")
    seconds, rounds = (QUICK_SECONDS, 1) if arguments.quick else (SECONDS, ROUNDS)
    modes = (*MODES, SLOWEST_MODE) if arguments.full else MODES
    with tempfile.TemporaryDirectory() as caches:
        cases = {mode: partial(once, mode, seconds, f"{caches}/{mode}") for mode in modes}
        report(in_turn(cases, rounds))


def once(mode: str, seconds: float, cache: str) -> dict[str, Any]:
    """One mode in a separate process with its own compile cache."""
    arguments = ("--child", mode, str(seconds))
    return child("benchmarks.compiled_steps", *arguments, TORCHINDUCTOR_CACHE_DIR=cache)


def report(found: dict[str, list[dict[str, float]]]) -> None:
    """The table, the aim where it counts, and the plot."""
    rates = {mode: [r["rate"] for r in results] for mode, results in found.items()}
    over = {mode: ratio(rate, rates[EAGER]) for mode, rate in rates.items()}
    head = (
        "compile", "steps/s", "x eager", "first epoch, s", "the same from the cache, s",
        f"cost of epoch {WARM_UP}",
    )  # fmt: skip
    rows = [
        (f"`{mode}`", f"{median(rates[mode]):,.0f}", f"{over[mode]:.2f}", *firsts(found[mode]),
         f"{found[mode][-1]['cost']:.6f}")
        for mode in found
    ]  # fmt: skip
    body = [about(), "", *table(head, rows), "", verdict(over), "", "![](compiled_steps.png)"]
    publish("compiled_steps", "Compiled steps", body)
    title = f"Steps a second of a small MLP, batch {BATCH}, {place_in_words()}"
    values = {f"runback, compile {mode}": median(rate) for mode, rate in rates.items()}
    bars("compiled_steps.png", title, values, "steps/s", log=False, form="{:,.0f}")


def firsts(results: list[dict[str, float]]) -> tuple[str, str]:
    """Cells: the first epoch when nothing is compiled, and when the compile cache has it."""
    cold, *cached = (r["first"] for r in results)
    return f"{cold:.2f}", f"{median(cached):.2f}" if cached else ""


def verdict(over: dict[str, float]) -> str:
    """The fastest compiled mode beside eager: an aim on a GPU, a sentence on a CPU."""
    fastest = max((mode for mode in over if mode != EAGER), key=lambda mode: over[mode])
    if device() == "cuda":
        text = f"Compiled over eager on a GPU, the fastest mode (`{fastest}`)"
        return Aim(text, over[fastest], 5, at_least=True).line()
    return (
        f"On this CPU the fastest mode, `{fastest}`, makes {over[fastest]:.2f} times the steps of "
        "eager; the aim, at least 5x, is one for GPUs."
    )


def about() -> str:
    """What the table shows, and whether anything was compiled at all."""
    lack = missing_compiler(torch.device(device()))
    return (
        f"MLP {FEATURES}-{'-'.join(map(str, HIDDEN))}-1, {ROWS:,} rows in memory, batch {BATCH} "
        f"({STEPS} steps an epoch), SGD, float32, no validation, {place_in_words()}. The first "
        "epoch holds the compilation; libraries are loaded before."
        + (f" Nothing was compiled: {lack} on this machine." if lack else "")
    )


def place_in_words() -> str:
    """The name of the device."""
    return "on the GPU" if device() == "cuda" else "on one CPU thread"


if __name__ == "__main__":
    main()
