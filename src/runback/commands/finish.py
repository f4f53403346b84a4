"""The end of a training: scores the best weights on the test rows, publishes and plots them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from runback.console.progress import say
from runback.model.batched_forward import predict_rows
from runback.model.spec import STATE_FILE, save_model
from runback.run.run import Run
from runback.stateful import cloned
from runback.storage.atomic import sha256_of
from runback.tasks.figures import plot_costs, save_figure
from runback.tracking import tags
from runback.training.setup import TrainingSetup, held_out

EXAMPLE_ROWS = 3
MAX_CURVE_POINTS = 2000


@dataclass(frozen=True)
class Chosen:
    """The weights chosen for the run's model, with the reason."""

    epoch: int
    weights: dict[str, Any]
    reason: str


def finish(run: Run, setup: TrainingSetup) -> None:
    """Scores, publishes and plots the chosen weights through the outbox."""
    chosen = _choose(setup)
    setup.state.model.load_state_dict(chosen.weights)
    tested = _tested(setup)
    if tested is None:
        say("the split has no test rows: no test scores")
    else:
        _score(run, setup, chosen, *tested)
    _publish(run, setup, chosen)  # before the plots: the courier registers meanwhile
    _plot(run, setup, tested)


def _tested(setup: TrainingSetup) -> tuple[Tensor, Tensor] | None:
    """The module's output for the test rows, and their targets; None without test rows."""
    test = held_out(setup)
    return None if test is None else (predict_rows(setup.state.model, test.features), test.targets)


def _choose(setup: TrainingSetup) -> Chosen:
    """The best epoch by val_cost; without validation rows, the last."""
    state = setup.state
    if state.best is None:
        return Chosen(
            state.epoch, cloned(state.model.state_dict()), "last epoch, as there is no val_cost"
        )
    return Chosen(
        state.best.epoch,
        state.best.model_state_dict,
        f"lowest val_cost {state.best.val_cost:.6g} of {state.epoch} epochs",
    )


def _score(run: Run, setup: TrainingSetup, chosen: Chosen, output: Tensor, y: Tensor) -> None:
    scores = setup.task.scores(output, y, setup.config.loss)
    run.journal.record([(f"test_{name}", value) for name, value in scores.items()], chosen.epoch)
    shown = "  ".join(f"test_{name} {value:.6g}" for name, value in scores.items())
    say(f"epoch {chosen.epoch} ({chosen.reason}): {shown}")


def _plot(run: Run, setup: TrainingSetup, tested: tuple[Tensor, Tensor] | None) -> None:
    """Cost curves, and the task's plots of the test rows."""
    run.journal.flush()
    folder = run.folder.outbox / "plots"
    curves = {name: _curve(run, name) for name in ("cost", "val_cost")}
    plot_costs(folder / "cost.png", {name: c for name, c in curves.items() if c[0]})
    run.post_file(folder / "cost.png", "plots")
    if tested is None:
        return
    for stem, figure in setup.task.plots(*tested, setup.table.columns.targets):
        save_figure(figure, folder / f"{stem}.png")
        run.post_file(folder / f"{stem}.png", "plots")


def _curve(run: Run, name: str) -> tuple[list[int], list[float]]:
    points = run.journal.points(name)
    points = points[:: max(1, len(points) // MAX_CURVE_POINTS)]
    return [p.step for p in points], [p.value for p in points]


def _publish(run: Run, setup: TrainingSetup, chosen: Chosen) -> None:
    """Writes the model folder and adds it to the outbox; the courier logs and registers it."""
    folder = run.folder.model
    on_cpu = {name: _on_cpu(value) for name, value in chosen.weights.items()}
    save_model(folder, setup.built, on_cpu)
    rows = setup.table.features[setup.split.train[:EXAMPLE_ROWS]].tolist()
    example = {"columns": list(setup.table.columns.features), "data": rows}
    (folder / "example.json").write_text(json.dumps(example) + "\n", encoding="utf-8")
    run.journal.post(
        "model",
        register=setup.register_as,
        model_type=setup.task.model_type,
        epoch=chosen.epoch,
        sha256=sha256_of(folder / STATE_FILE),
        description=(
            f"{setup.config.model} on {setup.table.path.name}: epoch {chosen.epoch} of run {run.id}, "
            f"{chosen.reason}"
        ),
        tags={
            tags.EPOCH: str(chosen.epoch),
            tags.CHOSEN: chosen.reason,
            tags.DATA_FINGERPRINT: setup.table.fingerprint,
            tags.SPLIT_SHA256: setup.split.digest,
            tags.CONFIG_SHA256: setup.config.identity(),
        },
        metrics=_metrics_at(run, chosen.epoch),
    )


def _metrics_at(run: Run, epoch: int) -> list[list[Any]]:
    """The points of the chosen epoch, as [key, value, timestamp, step], without the lr."""
    run.journal.flush()
    points = run.journal.points_at(epoch)
    return [[p.key, p.value, p.timestamp, p.step] for p in points if p.key != "lr"]


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
