"""Ranks models by one score on the same rows, with intervals that tell differences from noise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runback.commands.evaluate import rows_of
from runback.commands.load import Loaded, loading, scoring_of
from runback.errors import RunNotFoundError, UsageError
from runback.model.batched_forward import predict_rows
from runback.tasks import Loss, Target, Task

LEVEL = 0.95
# Random samples of the rows, fewer of many rows; drawn with a fixed seed.
SAMPLES, FEW_SAMPLES = 999, 199
MANY_ROWS = 10_000


@dataclass(frozen=True)
class Ranked:
    """A model in a ranking.

    Attributes:
        score: on the rows of the ranking.
        difference: of the score from that of the best model.
        low: of the 95 % interval of the difference, by a paired bootstrap over the rows; None for
            the best model, and where the score is not defined for samples of the rows.
        high: likewise.
        is_clear: whether the interval excludes 0: the model is worse than the best one.
    """

    run_id: str
    score: float
    difference: float
    low: float | None
    high: float | None
    is_clear: bool


@dataclass(frozen=True)
class Ranking:
    """Models ranked by one score, the best first.

    Attributes:
        metric: the primary metric of their task.
        data: the table.
        rows: the number of scored rows.
    """

    metric: str
    data: str
    rows: int
    models: tuple[Ranked, ...]


@dataclass(frozen=True)
class _Predicted:
    """The predictions of a model for the rows of the ranking."""

    run_id: str
    data: str
    task: Task
    targets: Sequence[Target]
    loss: Loss
    output: Tensor
    y: Tensor

    def score(self, rows: npt.NDArray[np.int64] | None = None) -> float:
        """The primary metric on some rows, or on all; NaN where it is not defined."""
        chosen = slice(None) if rows is None else torch.from_numpy(rows)
        parts = self.output[chosen], self.y[chosen]
        scores = self.task.scores(*parts, self.loss, self.targets)
        return scores.get(self.task.primary_metric, float("nan"))


def rank(run_ids: Sequence[str], data: str | None = None, trust: bool = False) -> Ranking:
    """Scores the models of runs on their test rows, or on all rows of a table.

    Args:
        run_ids: of the runs; those without a model are left out.
        data: a table with the features and targets of all models; None for the test rows, which the
            caller has found to be the same.
        trust: as in `load_model`.

    Raises:
        UsageError: the models predict different targets or classes, or fewer than two have a model.
        DataError: the table is missing, has changed, or does not fit.
        TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
    """
    found = [p for p in (_predicted(run_id, data, trust) for run_id in run_ids) if p is not None]
    if len(found) < 2:
        raise UsageError("fewer than two of the runs have a model")
    for other in found[1:]:
        _require_same_targets(found[0], other)
    task, metric = found[0].task, found[0].task.primary_metric
    sign = -1 if task.metrics[metric].higher_is_better else 1
    scored = sorted(((p.score(), p) for p in found), key=lambda pair: _order(sign * pair[0]))
    best_score, best = scored[0]
    models = [Ranked(best.run_id, best_score, 0.0, None, None, False)]
    models += [_ranked(p, score, best, best_score) for score, p in scored[1:]]
    return Ranking(metric, best.data, len(best.y), tuple(models))


def _predicted(run_id: str, data: str | None, trust: bool) -> _Predicted | None:
    """The predictions of a run's model; None if it has none."""
    try:
        with loading(run_id, trust=trust) as loaded:
            return _predictions(loaded, data)
    except RunNotFoundError:
        return None


def _predictions(loaded: Loaded, data: str | None) -> _Predicted:
    x, y, data = rows_of(loaded, data)
    spec = loaded.spec
    scoring = scoring_of(loaded)
    task, targets = scoring.task, scoring.targets
    return _Predicted(
        run_id=loaded.record.run_id,
        data=data,
        task=task,
        targets=targets,
        loss=scoring.loss,
        output=predict_rows(loaded.module, x),
        y=y.to(task.target_dtype(spec.torch_dtype)),
    )


def _require_same_targets(one: _Predicted, other: _Predicted) -> None:
    """Checks that two models predict the same.

    Raises:
        UsageError: another task, target or class.
    """
    whats = [(p.task.name, [(t.name, tuple(t.classes)) for t in p.targets]) for p in (one, other)]
    if whats[0] != whats[1]:
        names = [f"{name} of {', '.join(t for t, _ in targets)}" for name, targets in whats]
        raise UsageError(
            f"runs {one.run_id} and {other.run_id} predict different targets or classes: "
            f"{names[0]}, {names[1]}"
        )


def _ranked(one: _Predicted, score: float, best: _Predicted, best_score: float) -> Ranked:
    low, high = interval(one, best)
    is_clear = low is not None and high is not None and not low <= 0 <= high
    return Ranked(one.run_id, score, score - best_score, low, high, is_clear)


def interval(one: _Predicted, other: _Predicted) -> tuple[float | None, float | None]:
    """The bootstrap interval of the difference of two scores, both on the same samples of the rows."""
    from scipy.stats import bootstrap  # imported late: it takes a second

    n_rows = len(one.y)
    if n_rows < 2:
        return None, None

    def difference(rows: npt.NDArray[np.int64]) -> float:
        return one.score(rows) - other.score(rows)

    with warnings.catch_warnings():  # scores that are not defined for a sample
        warnings.simplefilter("ignore")
        result = bootstrap(
            (np.arange(n_rows),),
            difference,
            vectorized=False,
            n_resamples=SAMPLES if n_rows <= MANY_ROWS else FEW_SAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    low, high = map(float, result.confidence_interval)
    return (low, high) if low <= high else (None, None)  # NaN


def _order(value: float) -> tuple[bool, float]:
    """Sorts NaN last."""
    return value != value, value
