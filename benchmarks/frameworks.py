"""Trainers of Lightning and transformers: untracked, with our logger or callback, and with MLflow's."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from benchmarks.peers import without_transformers

POINTS, QUICK_POINTS = 20_000, 400
# Lightning logs cost and epoch; transformers loss, gradient norm, learning rate and epoch.
PER_STEP = {"lightning": 2, "transformers": 4}
TRACKED = {"untracked": "", "runback": "ours", "MLflow": "theirs"}
ROWS, COLUMNS, BATCH = 1000, 20, 10


class Clock:
    """The times of the end of the first step and of the last one."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.first, self.last = steps, 0, 0.0, 0.0

    def tick(self) -> None:
        """Counts a completed step."""
        self.done += 1
        if self.done == 1:
            self.first = time.perf_counter()
        if self.done == self.steps:
            self.last = time.perf_counter()


def rows() -> list[tuple[Tensor, Tensor]]:
    """The same for all cases."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, COLUMNS)
    return list(zip(x, x.sum(1, keepdim=True), strict=True))


def lightning(clock: Clock, tracking: str) -> None:
    """Lightning's Trainer, which logs each step."""
    without_transformers()
    import lightning
    from lightning.pytorch.loggers import MLFlowLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(COLUMNS, 256), nn.ReLU(), nn.Linear(256, 1))

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            cost = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.log("cost", cost)
            return cost

        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    logger: Any = False
    if tracking == "ours":
        from runback.lightning import RunbackLogger

        logger = RunbackLogger("benchmark")
    elif tracking:
        logger = MLFlowLogger("Default", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    trainer = lightning.Trainer(
        max_steps=clock.steps, max_epochs=-1, accelerator="cpu", devices=1, logger=logger,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(rows(), BATCH, shuffle=True))  # type: ignore[arg-type]


def transformers(clock: Clock, tracking: str) -> None:
    """The Trainer of transformers, which logs each step."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(COLUMNS, 256), nn.ReLU(), nn.Linear(256, 1))

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.mse_loss(self.net(x), labels)}

    class Tick(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.tick()

    ours = []
    if tracking == "ours":
        from runback.transformers import RunbackCallback

        ours = [RunbackCallback("benchmark")]
    arguments = TrainingArguments(
        output_dir="trainer", max_steps=clock.steps, per_device_train_batch_size=BATCH,
        use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True, log_level="error",
        report_to="mlflow" if tracking == "theirs" else "none", dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for x, y in rows()]
    trainer = Trainer(Net(), arguments, train_dataset=data, callbacks=[*ours, Tick()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()


FRAMEWORKS: dict[str, Callable[[Clock, str], None]] = {
    "lightning": lightning,
    "transformers": transformers,
}


def case(name: str, tracking: str, points: int) -> dict[str, float]:
    """Seconds from the first step to the last, and to the end with the delivery; points in the store.

    MLflow's own callback delivers in a thread, which is waited for.
    """
    clock = Clock(points // PER_STEP[name])
    FRAMEWORKS[name](clock, tracking)
    if tracking == "theirs" and name == "transformers":
        import mlflow

        mlflow.flush_async_logging()
    end = time.perf_counter()
    return {
        "steps": clock.last - clock.first,
        "whole": end - clock.first,
        "points": float(stored(once=tracking == "ours") if tracking else 0),
    }


def stored(once: bool) -> int:
    """The points of the newest run in the store, each `once`: MLflow's callback writes one twice.

    Raises:
        ValueError: a point is there twice, or the run has not ended.
    """
    import mlflow

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"], max_results=1, order_by=["attributes.start_time DESC"])
    if run.info.status != "FINISHED":
        raise ValueError(f"run {run.info.run_id} is {run.info.status}")
    found = [
        (key, point.step)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    if once and len(found) != len(set(found)):
        raise ValueError(f"{len(found)} points, but {len(set(found))} (metric, step)")
    return len(found)


def main() -> None:
    """Measures and prints."""
    quick = options(__doc__).quick
    points = QUICK_POINTS if quick else POINTS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        empty_store(folder)
        env = {k: v for k, v in environment(folder).items() if k.startswith(("MLFLOW", "RUNBACK"))}
        runs = {
            f"{framework}, {title}": partial(
                child, "benchmarks.frameworks", framework, tracking or "none", str(points),
                str(folder), **env,
            )
            for framework in FRAMEWORKS
            for title, tracking in TRACKED.items()
        }  # fmt: skip
        found = in_turn(runs, 1 if quick else 3)
    publish("frameworks", "Frameworks", list(report(found, points)), ("lightning", "transformers"))


def report(found: dict[str, list[dict[str, float]]], points: int) -> Iterator[str]:
    """The section's lines."""
    yield (
        f"{points:,} metric points, logged at each step of a small network. Seconds from the end of "
        "the first step to that of the last one, and to the end of the training with the delivery of "
        "every point; beside them the ratio to the same trainer untracked. The points are counted in "
        "the store, where each (metric, step) is once."
    )
    yield ""
    rows = [_row(title, many, found) for title, many in found.items()]
    yield from table(("trainer", "steps, s", "ratio", "with delivery, s", "ratio", "points"), rows)
    yield ""
    for framework in FRAMEWORKS:
        for part, text, limit in (
            ("steps", "up to the last step", 1.1),
            ("whole", "with the delivery", 1.3),
        ):
            mine = _of(found, f"{framework}, runback", part)
            bare = _of(found, f"{framework}, untracked", part)
            yield Aim(f"{framework} with runback {text}", ratio(mine, bare), limit).line()


def _of(found: dict[str, list[dict[str, float]]], title: str, part: str) -> list[float]:
    return [one[part] for one in found[title]]


def _row(
    title: str, many: list[dict[str, float]], found: dict[str, list[dict[str, float]]]
) -> tuple[str, ...]:
    bare = f"{title.partition(',')[0]}, untracked"
    cells = [title]
    for part in ("steps", "whole"):
        mine = _of(found, title, part)
        cells += [f"{median(mine):.2f}", f"{ratio(mine, _of(found, bare, part)):.2f}"]
    return (*cells, f"{many[0]['points']:,.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in FRAMEWORKS:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(1)
        framework, tracked, count, where = sys.argv[1:5]
        os.chdir(where)
        known = "" if tracked == "none" else tracked
        sys.stdout.write(json.dumps(case(framework, known, int(count))) + "\n")
    else:
        main()
