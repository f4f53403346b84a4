"""The end of a training: the best weights scored on test rows, plotted, and put up for registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch

from runback.console.progress import say
from runback.data.batches import TableDataset
from runback.model.batched_forward import predict_rows
from runback.model.spec import STATE_FILE, save_model
from runback.run.run import Run
from runback.storage.atomic import sha256_of
from runback.tasks.figures import plot_costs, save_figure
from runback.training.setup import TrainingSetup, held_out
from runback.training.state import cloned

EXAMPLE_ROWS = 3
MAX_CURVE_POINTS = 2000


@dataclass(frozen=True)
class Chosen:
    """The weights that the run puts forward, and why."""

    epoch: int
    weights: dict[str, Any]
    reason: str


def finish(recorder: Run, work: TrainingSetup) -> None:
    """Scores, plots and publishes the chosen weights; all of it through the outbox."""
    chosen = _choose(work)
    work.state.model.load_state_dict(chosen.weights)
    test = held_out(work)
    if test is None:
        say("the split has no test rows: no test score exists")
    else:
        _score(recorder, work, chosen, test)
    _publish(recorder, work, chosen)  # before the plots: the courier registers while we draw
    _plot(recorder, work, test)


def _choose(work: TrainingSetup) -> Chosen:
    """The best epoch by val_cost; without validation rows, the last."""
    state = work.state
    if state.best is None:
        return Chosen(
            state.epoch, cloned(state.model.state_dict()), "last epoch, no val_cost to choose by"
        )
    return Chosen(
        state.best.epoch,
        state.best.model_state_dict,
        f"lowest val_cost {state.best.val_cost:.6g} of {state.epoch} epochs",
    )


def _score(recorder: Run, work: TrainingSetup, chosen: Chosen, test: TableDataset) -> None:
    output = predict_rows(work.state.model, test.features)
    found = work.task.scores(output, test.targets, work.config.loss)
    recorder.journal.record(
        [(f"test_{name}", value) for name, value in found.items()], chosen.epoch
    )
    shown = "  ".join(f"test_{name} {value:.6g}" for name, value in found.items())
    say(f"epoch {chosen.epoch} ({chosen.reason}): {shown}")


def _plot(recorder: Run, work: TrainingSetup, test: TableDataset | None) -> None:
    """Cost curves, and the task's plots of the test rows."""
    recorder.journal.flush()
    folder = recorder.folder.outbox / "plots"
    curves = {name: _curve(recorder, name) for name in ("cost", "val_cost")}
    plot_costs(folder / "cost.png", {name: c for name, c in curves.items() if c[0]})
    recorder.post_file(folder / "cost.png", "plots")
    if test is None:
        return
    output = predict_rows(work.state.model, test.features)
    for stem, figure in work.task.plots(output, test.targets, work.table.columns.targets):
        save_figure(figure, folder / f"{stem}.png")
        recorder.post_file(folder / f"{stem}.png", "plots")


def _curve(recorder: Run, name: str) -> tuple[list[int], list[float]]:
    points = recorder.journal.points(name)
    points = points[:: max(1, len(points) // MAX_CURVE_POINTS)]
    return [p.step for p in points], [p.value for p in points]


def _publish(recorder: Run, work: TrainingSetup, chosen: Chosen) -> None:
    """Writes the model folder and hands it to the courier, which logs and registers it."""
    folder = recorder.folder.model
    on_cpu = {name: _on_cpu(value) for name, value in chosen.weights.items()}
    save_model(folder, work.built, on_cpu)
    rows = work.table.features[work.split.train[:EXAMPLE_ROWS]].tolist()
    example = {"columns": list(work.table.columns.features), "data": rows}
    (folder / "example.json").write_text(json.dumps(example) + "\n", encoding="utf-8")
    run_id = recorder.folder.run_id
    recorder.journal.post(
        "model",
        register=work.register_as,
        model_type=work.task.model_type,
        epoch=chosen.epoch,
        sha256=sha256_of(folder / STATE_FILE),
        description=(
            f"{work.config.model} on {work.table.path.name}: epoch {chosen.epoch} of run {run_id}, "
            f"{chosen.reason}"
        ),
        tags={
            "runback.epoch": str(chosen.epoch),
            "runback.chosen": chosen.reason,
            "runback.data_fingerprint": work.table.fingerprint,
            "runback.split_sha256": work.split.digest,
            "runback.config_sha256": work.config.identity(),
        },
        metrics=_metrics_at(recorder, chosen.epoch),
    )


def _metrics_at(recorder: Run, epoch: int) -> list[list[Any]]:
    """The points of the chosen epoch, to be attached to the model with their own timestamps."""
    recorder.journal.flush()
    found = recorder.journal.points_at(epoch)
    return [[p.key, p.value, p.timestamp, p.step] for p in found if p.key != "lr"]


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
