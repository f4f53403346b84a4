"""The end of a training: scores the best weights on the test rows, publishes and plots them."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runback.commands.baselines import compare_with_baselines
from runback.commands.note import note
from runback.commands.plots import plot
from runback.console.progress import tell
from runback.errors import DivergedError, RebuildError
from runback.model.batched_forward import chunk_rows, predict_rows
from runback.model.digests import into_place
from runback.model.rebuild import Rebuilder
from runback.model.spec import load_weights, save_model
from runback.open_run.run import Run
from runback.stateful import cloned
from runback.tracking import tags
from runback.training.device import DEFAULT_THREADS
from runback.training.setup import TrainingSetup, held_out

# Rows of which the rebuilt model must predict the same, bit for bit; fewer of large samples.
CHECKED_ROWS = 1024


@dataclass(frozen=True)
class Chosen:
    """The weights chosen for the run's model, with the reason."""

    epoch: int
    weights: dict[str, Any]
    reason: str


def finish(run: Run, setup: TrainingSetup, rebuilder: Rebuilder) -> None:
    """Scores, publishes and plots the chosen weights through the outbox.

    Raises:
        DivergedError: the test cost is not finite; it is logged first.
        RebuildError: the model folder does not give the trained module back; nothing is published.
    """
    torch.set_num_threads(setup.config.threads or DEFAULT_THREADS)  # as `evaluate` computes
    chosen = _choose(setup)
    load_weights(setup.state.model, chosen.weights)
    test, model = held_out(setup), setup.state.model
    tested = None if test is None else (predict_rows(model, test.features), test.targets)
    _record_best(run, setup)
    try:
        scores = _score(run, setup, chosen, tested)
        _publish(run, setup, chosen, rebuilder)  # before the plots: the courier registers meanwhile
        baselines = {} if test is None else compare_with_baselines(run, setup, test, scores)
        weights = f"epoch {chosen.epoch}, {chosen.reason}"
        run.journal.post("note", text=note(run, setup, weights, scores, baselines))
    except (DivergedError, RebuildError):
        plot(run, setup, tested)
        raise
    plot(run, setup, tested)


def require_finite(name: str, cost: float, epoch: int) -> None:
    """Checks a cost of an epoch.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    if not math.isfinite(cost):
        raise DivergedError(
            f"the {name} of epoch {epoch} is {cost}; try a smaller lr, or scale the columns"
        )


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


def _record_best(run: Run, setup: TrainingSetup) -> None:
    """Logs the best epoch, as MLflow's tables show the latest value of a metric."""
    best = setup.state.best
    if best is not None:
        values = [("best_val_cost", best.val_cost), ("best_epoch", float(best.epoch))]
        run.journal.record(values, best.epoch)


def _score(
    run: Run, setup: TrainingSetup, chosen: Chosen, tested: tuple[Tensor, Tensor] | None
) -> dict[str, float]:
    """Logs and returns the test scores; empty without test rows.

    Raises:
        DivergedError: the cost is not finite.
    """
    if tested is None:
        tell("the split has no test rows: no test scores")
        return {}
    scores = setup.scoring.scores(*tested)
    run.journal.record([(f"test_{name}", value) for name, value in scores.items()], chosen.epoch)
    shown = "  ".join(f"test_{name} {value:.6g}" for name, value in scores.items())
    tell(f"epoch {chosen.epoch} ({chosen.reason}): {shown}")
    require_finite("test_cost", scores["cost"], chosen.epoch)
    return scores


def _written(run: Run, setup: TrainingSetup, chosen: Chosen) -> tuple[Path, str]:
    """Writes the model folder; returns it with the SHA-256 of its digests."""
    root = run.folder.model
    on_cpu = {name: _on_cpu(value) for name, value in chosen.weights.items()}
    shutil.rmtree(root / "new", ignore_errors=True)
    sha256 = save_model(root / "new", setup.built, on_cpu, setup.example)
    return into_place(root, sha256)


def _publish(run: Run, setup: TrainingSetup, chosen: Chosen, rebuilder: Rebuilder) -> None:
    """Writes the model folder, checks it and adds it to the outbox; the courier registers it.

    Raises:
        RebuildError: the model built from the folder is not the trained module.
    """
    folder, sha256 = _written(run, setup, chosen)
    rows = setup.split.test if len(setup.split.test) else setup.split.train
    features = setup.table.features
    checked = rows[: min(CHECKED_ROWS, chunk_rows(features))]
    rebuilder.require_equal(folder, features[checked])
    run.journal.post(
        "model",
        register=setup.register_as,
        model_type=setup.task.model_type,
        epoch=chosen.epoch,
        sha256=sha256,
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
