"""`runback promote`: moves an alias to a better model, compared on the same test rows."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runback.commands.evaluate import split_of
from runback.commands.load import Loaded, loading, scoring_of
from runback.commands.rank import Predicted, interval, predictions
from runback.errors import CheckpointError, UsageError
from runback.limits import alias_problem
from runback.storage.lock import FileLock
from runback.storage.paths import home
from runback.tasks import Metric, by_name
from runback.tracking import aliases, connection, registry, tags
from runback.tracking.find_run import find_run
from runback.tracking.record import RunRecord
from runback.training.own_parts import OwnParts
from runback.training.scoring import Scoring
from runback.user_code import sources_differ

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# Other promotions of the same model may each score two large tables first.
LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class PromotionResult:
    """The result of a promotion.

    Attributes:
        model: the registered model.
        version: of RUN.
        holder: the version that had the alias; None if the alias was not set.
        metric: the compared score.
        score: of RUN's version; None if it was not scored or is not finite.
        holder_score: of the holder's version, likewise.
        low: of the 95 % interval of the difference of RUN's score from the holder's, by a paired
            bootstrap over the rows; None if there are not both, or it is not defined.
        high: likewise.
        significant: whether RUN's score is better and the interval excludes 0; None without one.
        moved: whether the alias was moved to RUN's version.
    """

    model: str
    alias: str
    version: str
    holder: str | None
    metric: str
    score: float | None
    holder_score: float | None
    low: float | None
    high: float | None
    significant: bool | None
    moved: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Rule:
    """What moves the alias besides a better score; see `promote`."""

    force: bool
    significant: bool


@dataclass(frozen=True)
class RollbackResult:
    """A promotion that was undone.

    Attributes:
        model: the registered model.
        version: the version that has the alias now; None if it is not set.
        replaced: the version that had it before.
    """

    model: str
    alias: str
    version: str | None
    replaced: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def promote(
    run: str,
    alias: str = "champion",
    metric: str = "",
    data: str | None = None,
    force: bool = False,
    trust: bool = False,
    significant: bool = False,
    better: str = "",
) -> PromotionResult:
    """Moves an alias to RUN's version if its score is better than the holder's on the same rows.

    A run with a loop of its own (`runback.run`, Lightning, transformers) has no test rows that both
    models could be scored on. There the metric is one that both runs logged, and `better` says its
    direction; whether the two values are of the same rows is for the caller to know.

    The difference of the scores has a 95 % interval by a paired bootstrap over the rows. If it
    includes 0, the rows do not tell which model is better.

    Promotions that share RUNBACK_HOME are serialized. Promotions with another RUNBACK_HOME and
    other changes of the alias at the same moment are not, as MLflow has no compare-and-swap.

    Args:
        run: RUN in any of its forms; it must have a registered version.
        alias: of the registered model.
        metric: one of the scores of RUN's task; empty for the task's primary metric. For a run with a
            loop of its own, one that it logged, of which the last value counts.
        data: a table to score both models on, instead of the runs' test rows.
        force: move the alias regardless of the scores, or without any.
        trust: as in `load_model`, for both models.
        significant: move the alias only if the interval excludes 0, or no version has it.
        better: "lower" or "higher", for a run with a loop of its own only.

    Raises:
        UsageError: RUN is not registered, it has no such metric, or the two models cannot be
            compared.
        RunHeldError: another promotion of the model is in progress.
        RunNotFoundError, TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
        DataError: a table is missing or has changed.
    """
    _require_alias(alias)
    client = connection.connect()
    record = find_run(client, run)
    if record.has_own_loop:
        if data is not None or significant:
            raise UsageError(
                f"run {record.run_id} has a loop of its own, so data and significant, which need "
                "scores of rows, do not apply; give metric and better"
            )
        return _by_logged(client, record, alias, metric, better, _Rule(force, significant=False))
    if better:
        raise UsageError(f"better {better!r}: is for a run with a loop of its own; leave it out")
    with loading(run, trust=trust) as loaded:
        scoring = scoring_of(loaded)
        metric = _metric_of(scoring, metric)
        version = registry.version_of(loaded.client, loaded.record)
        compare = partial(_compared, loaded, scoring, data, _Rule(force, significant))
        return _decided(loaded.client, version, alias, metric, compare)


def rollback(run: str, alias: str = "champion") -> RollbackResult:
    """Undoes the last promotion to an alias of RUN's registered model; can be repeated.

    Raises:
        UsageError: nothing to undo, or the alias was changed by other means since.
        RunHeldError: another promotion of the model is in progress.
        RunNotFoundError, TrackingError: as in `load_model`.
    """
    _require_alias(alias)
    client = connection.connect()
    version = registry.version_of(client, find_run(client, run))
    with _promotion_lock(version.name):
        undone = aliases.undo(client, version.name, alias)
    return RollbackResult(version.name, alias, undone["replaced"], undone["version"])


def _require_alias(alias: str) -> None:
    """Checks an alias before two models are scored.

    Raises:
        UsageError: MLflow would refuse it.
    """
    problem = alias_problem(alias, tags.PROMOTIONS)
    if problem:
        raise UsageError(f"--alias {alias[:80]!a}: {problem}")


def _metric_of(scoring: Scoring, metric: str) -> str:
    metric = metric or scoring.task.primary_metric
    if metric not in scoring.metrics:
        raise UsageError(f"metric {metric!r} is not one of {', '.join(scoring.metrics)}")
    return metric


def _decided(
    client: MlflowClient,
    version: ModelVersion,
    alias: str,
    metric: str,
    compare: Callable[[PromotionResult], PromotionResult],
) -> PromotionResult:
    """The result that `compare` completes, unless the version has the alias; moves it accordingly."""
    with _promotion_lock(version.name):
        holder = aliases.holder_of(client, version.name, alias)
        result = _undecided(version, holder, alias, metric)
        if result.holder == result.version:
            return dataclasses.replace(result, reason="it has the alias already")
        result = compare(result)
        if result.moved:
            aliases.move(client, version.name, alias, _history_entry(result))
        return result


def _by_logged(
    client: MlflowClient, record: RunRecord, alias: str, metric: str, better: str, rule: _Rule
) -> PromotionResult:
    """`promote` by the last values of a metric that both runs logged."""
    score, direction = _logged(record, metric), _direction(better, metric)
    version = registry.version_of(client, record)
    compare = partial(_compared_logged, client, score, direction, rule)
    return _decided(client, version, alias, metric, compare)


def _compared_logged(
    client: MlflowClient, score: float, direction: Metric, rule: _Rule, result: PromotionResult
) -> PromotionResult:
    """As `_compared`, of values that were logged."""
    old = _logged_by_holder(client, result, rule)
    result = dataclasses.replace(result, score=_finite(score), holder_score=old)
    moved, reason = _verdict(direction, result, rule)
    return dataclasses.replace(result, moved=moved, reason=reason)


def _logged(record: RunRecord, metric: str) -> float:
    """The last value of a metric of a run with a loop of its own.

    Raises:
        UsageError: the run has no such metric, or none is named.
    """
    if metric in record.metrics:
        return record.metrics[metric]
    has = ", ".join(sorted(record.metrics)) or "none"
    what = f"did not log {metric!a}" if metric else "has a loop of its own"
    raise UsageError(
        f"run {record.run_id} {what}: name the metric that decides with --metric (the run has {has}), "
        "and its direction with --better"
    )


def _logged_by_holder(client: MlflowClient, result: PromotionResult, rule: _Rule) -> float | None:
    if result.holder is None:
        return None
    holder = find_run(client, f"models:/{result.model}/{result.holder}")
    if rule.force and result.metric not in holder.metrics:
        return None
    return _finite(_logged(holder, result.metric))


def _direction(better: str, metric: str) -> Metric:
    if better not in ("lower", "higher"):
        given = (
            f"better {better!r}: is neither lower nor higher" if better else "better: is missing"
        )
        raise UsageError(
            f"{given}; say which values of {metric} are better, --better lower or higher"
        )
    return Metric(higher_is_better=better == "higher")


def _promotion_lock(name: str) -> FileLock:
    """The lock on a registered model's aliases within RUNBACK_HOME."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = FileLock(home() / f"promotion-{digest}.lock")
    return lock.acquire(f"model {name}, for a promotion,", LOCK_SECONDS)


def _undecided(
    version: ModelVersion, holder: ModelVersion | None, alias: str, metric: str
) -> PromotionResult:
    return PromotionResult(
        model=version.name,
        alias=alias,
        version=str(version.version),
        holder=str(holder.version) if holder else None,
        metric=metric,
        score=None,
        holder_score=None,
        low=None,
        high=None,
        significant=None,
        moved=False,
        reason="",
    )


def _compared(
    loaded: Loaded, scoring: Scoring, data: str | None, rule: _Rule, result: PromotionResult
) -> PromotionResult:
    """Completes the result: both scores, their interval, whether to move the alias, and the reason.

    The metrics of the user's own that RUN was trained with score the holder, too.
    """
    metric = result.metric
    try:
        holder = _of_holder(loaded, scoring.own, result, data) if result.holder else None
        new = predictions(loaded, data, scoring.own)
    except (UsageError, CheckpointError) as error:  # RUN's own model is loaded, so it is sound
        if not rule.force:
            raise
        return dataclasses.replace(result, moved=True, reason=f"forced, though {error}")
    result = dataclasses.replace(result, score=_finite(new.score(metric)))
    if holder is not None:
        result = dataclasses.replace(result, holder_score=_finite(holder.score(metric)))
        result = _with_interval(result, new, holder)
    moved, reason = _verdict(scoring.metrics[metric], result, rule)
    return dataclasses.replace(result, moved=moved, reason=reason)


def _with_interval(result: PromotionResult, new: Predicted, holder: Predicted) -> PromotionResult:
    if result.score is None or result.holder_score is None:
        return result
    found = interval(new, holder, result.metric)
    if found.low is None:
        return result
    is_better = new.task.metrics[result.metric].is_better(result.score, result.holder_score)
    significant = is_better and found.is_clear
    return dataclasses.replace(result, low=found.low, high=found.high, significant=significant)


def _verdict(direction: Metric, result: PromotionResult, rule: _Rule) -> tuple[bool, str]:
    new, old, metric = result.score, result.holder_score, result.metric
    forced = ", but forced" if rule.force else ""
    if new is None:
        return rule.force, f"it has no finite {metric}{forced}"
    if result.holder is None:
        return True, "no version had the alias"
    if old is None:
        return True, f"the holder has no finite {metric}"
    if not direction.is_better(new, old):
        return rule.force, f"its {metric} is not better{forced}"
    if rule.significant and not result.significant:
        return rule.force, f"its {metric} is better, but not significantly{forced}"
    return True, f"its {metric} is better"


def _of_holder(
    loaded: Loaded, own: OwnParts, result: PromotionResult, data: str | None
) -> Predicted:
    with loading(f"models:/{result.model}/{result.holder}", trust=loaded.trust) as other:
        _require_comparable(loaded, other, result.metric)
        if data is None:
            _require_same_rows(loaded, other)
        return predictions(other, data, own)


def _finite(value: float) -> float | None:
    """A score; None if it is undefined for the rows or not finite."""
    return value if abs(value) < float("inf") else None


def _require_comparable(one: Loaded, other: Loaded, metric: str) -> None:
    targets = [(run.spec.targets, run.spec.target_shape) for run in (one, other)]
    if targets[0] != targets[1]:
        new, old = (
            ", ".join(names) + (f" {list(shape)}" if shape else "") for names, shape in targets
        )
        raise UsageError(
            f"run {one.record.run_id} predicts {new}, the holder's run {other.record.run_id} {old}"
        )
    classes = [[label.classes for label in run.spec.labels] for run in (one, other)]
    if classes[0] != classes[1]:
        raise UsageError(
            f"run {one.record.run_id} and the holder's run {other.record.run_id} have other classes"
        )
    if metric != "cost":
        return
    losses = one.config.loss, other.config.loss
    own = [scoring_of(run).own.loss for run in (one, other)]
    if own[0] and own[1] and sources_differ(own[0], own[1]):
        raise UsageError(
            f"metric cost is that of two versions of {losses[0]}; choose another metric"
        )
    if losses[0] != losses[1]:
        *most, last = (name for name in by_name(one.spec.task).metrics if name != "cost")
        raise UsageError(
            f"metric cost is {losses[0]} for one run and {losses[1]} for the other; choose "
            f"{', '.join(most)} or {last}"
        )


def _require_same_rows(one: Loaded, other: Loaded) -> None:
    """Checks that two runs have the same table and test rows; other rows may differ.

    Raises:
        UsageError: they differ.
    """
    tables = [run.record.tags.data_fingerprint for run in (one, other)]
    if tables[0] == tables[1] and split_of(one).test.equal(split_of(other).test):
        return
    raise UsageError(
        f"the test rows of run {one.record.run_id} and of the holder's run {other.record.run_id} "
        "differ; compare them on a table that neither was trained on with --data"
    )


def _history_entry(result: PromotionResult) -> dict[str, Any]:
    """The entry of a promotion in the registered model's history."""
    return {
        "version": result.version,
        "replaced": result.holder,
        "metric": result.metric,
        "score": result.score,
        "holder_score": result.holder_score,
        "at_ms": time.time_ns() // 1_000_000,
    }
