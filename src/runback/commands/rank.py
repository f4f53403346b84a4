"""Ranks models by one score on the same rows, with intervals that tell differences from noise."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runback.commands.evaluate import computed, rows_of
from runback.commands.load import Loaded, loading
from runback.errors import RunNotFoundError, UsageError
from runback.tasks import Task
from runback.tasks.resampling import Resampled
from runback.training.own_parts import OwnParts
from runback.training.scoring import Scoring

LEVEL = 0.95
# Random samples of the rows, drawn with a fixed seed, so many at once.
SAMPLES, BATCH = 999, 100
# More rows are in so many groups or, for scores that need each row, so many rows are kept.
MAX_ROWS = 2_000

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


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
class Predicted:
    """The predictions of a model for the rows that are scored."""

    run_id: str
    data: str
    scoring: Scoring
    output: Tensor
    y: Tensor

    @property
    def task(self) -> Task:
        """The task of its run."""
        return self.scoring.task

    def score(self, metric: str) -> float:
        """A score of all rows; NaN where it is not defined."""
        scores = self.scoring.scores(self.output, self.y)
        return scores.get(metric, float("nan"))

    def resampled(self, metric: str) -> Resampled | None:
        """A score of samples of the rows; None where it is not defined."""
        if not bool(self.output.isfinite().all()):
            return None
        if metric not in self.task.metrics:  # of the user's own
            return None
        found = self.task.resampled(metric, self.output, self.y, self.scoring.loss)
        return None if found is None else found.limited(MAX_ROWS)


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of the difference of two scores; None where it is not defined."""

    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether it excludes 0: the scores differ by more than the rows' noise."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


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
    scored = sorted(((p.score(metric), p) for p in found), key=lambda pair: _order(sign * pair[0]))
    best_score, best = scored[0]
    models = [Ranked(best.run_id, best_score, 0.0, None, None, False)]
    for score, one in scored[1:]:
        found_in = interval(one, best, metric)
        ends = found_in.low, found_in.high, found_in.is_clear
        models.append(Ranked(one.run_id, score, score - best_score, *ends))
    return Ranking(metric, best.data, len(best.y), tuple(models))


def _predicted(run_id: str, data: str | None, trust: bool) -> Predicted | None:
    """The predictions of a run's model; None if it has none."""
    try:
        with loading(run_id, trust=trust) as loaded:
            return predictions(loaded, data)
    except RunNotFoundError:
        return None


def predictions(loaded: Loaded, data: str | None, own: OwnParts | None = None) -> Predicted:
    """The predictions for the run's test rows, or for all rows of a table.

    Args:
        loaded: the model.
        data: a table; None for the test rows.
        own: with metrics of another run; None for those of the model's run.

    Raises:
        DataError, UsageError: as in `evaluate.score`.
    """
    x, y, data = rows_of(loaded, data)
    scoring, output, y = computed(loaded, x, y)
    if own is not None:
        scoring = dataclasses.replace(scoring, own=own)
    return Predicted(loaded.record.run_id, data, scoring, output, y)


def _require_same_targets(one: Predicted, other: Predicted) -> None:
    """Checks that two models predict the same.

    Raises:
        UsageError: another task, target or class.
    """
    whats = [
        (p.task.name, [(t.name, tuple(t.classes)) for t in p.scoring.targets]) for p in (one, other)
    ]
    if whats[0] != whats[1] or one.y.shape != other.y.shape:
        names = [f"{name} of {', '.join(t for t, _ in targets)}" for name, targets in whats]
        raise UsageError(
            f"runs {one.run_id} and {other.run_id} predict different targets or classes: "
            f"{names[0]}, {names[1]}"
        )


def interval(one: Predicted, other: Predicted, metric: str) -> Interval:
    """The bootstrap interval of `one`'s score minus `other`'s, both on the same samples of the rows."""
    from scipy.stats import bootstrap  # imported late: it takes a second

    first, second = one.resampled(metric), other.resampled(metric)
    if first is None or second is None or len(first) < 2:
        return Interval(None, None)

    def difference(drawn: Rows, axis: int) -> Array:
        counts = _counts(np.moveaxis(drawn, axis, -1))
        return first.scores(counts) - second.scores(counts)

    with warnings.catch_warnings():  # scores that are not defined for a sample
        warnings.simplefilter("ignore")
        result = bootstrap(
            (np.arange(len(first)),),
            difference,
            vectorized=True,
            n_resamples=SAMPLES,
            batch=BATCH,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    low, high = map(float, result.confidence_interval)
    return Interval(low, high) if low <= high else Interval(None, None)  # NaN


def _counts(drawn: Rows) -> Array:
    """How often each sample `[n_samples, n]` has each of n rows, `[n_samples, n]`."""
    n_samples, n = drawn.shape
    places = drawn + n * np.arange(n_samples)[:, None]
    return np.bincount(places.ravel(), minlength=n_samples * n).reshape(n_samples, n).astype(float)


def _order(value: float) -> tuple[bool, float]:
    """Sorts NaN last."""
    return value != value, value
