"""`runback promote`: an alias goes to the better model, judged on the same test rows."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runback.commands.evaluate import score, split_of
from runback.commands.load import Loaded, loading
from runback.errors import UsageError
from runback.storage.lock import FileLock
from runback.storage.paths import home
from runback.tasks import Task, by_name
from runback.tracking import aliases, connection, registry, runs
from runback.tracking.runs import TAG_FINGERPRINT

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# Other promotions of the same model may each score two large tables first.
LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class PromotionResult:
    """What a promotion decided.

    Attributes:
        model: the registered model.
        version: of RUN.
        holder: the version that had the alias; None where nobody had it.
        metric: what decided.
        score: of RUN's version; None where it was not scored, or is not finite.
        holder_score: of the holder's version, likewise.
        moved: whether the alias was moved to RUN's version.
    """

    model: str
    alias: str
    version: str
    holder: str | None
    metric: str
    score: float | None
    holder_score: float | None
    moved: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RollbackResult:
    """A promotion that was undone.

    Attributes:
        model: the registered model.
        version: the version that has the alias now; None for nobody.
        replaced: the version from which it was taken.
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
) -> PromotionResult:
    """Moves an alias to RUN's version if RUN beats the holder on the same test rows.

    Promotions that share RUNBACK_HOME are serialized, so that each is judged against the holder it
    replaces. Promotions with another home or on another machine are not, nor is whoever moves the
    alias by other means at the same moment: MLflow has no compare-and-swap.

    Args:
        run: in any form that names a run; it must have a registered version.
        alias: of the registered model.
        metric: one of the scores of RUN's task; empty for the task's primary metric.
        data: a table to score both on, instead of the runs' own test rows.
        force: move it whatever the figures say, also where there are none to compare.

    Raises:
        UsageError: RUN is not registered, its task has no such metric, or the two cannot be
            compared.
        RunHeldError: another promotion of the model does not end.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
        DataError: a table is missing or has changed.
    """
    with loading(run) as loaded:
        metric = _metric_of(by_name(loaded.spec.task), metric)
        version = registry.version_of(loaded.client, loaded.info)
        with _promotion_lock(version.name):
            holder = aliases.holder_of(loaded.client, version.name, alias)
            result = _compared(loaded, _undecided(version, holder, alias, metric), data, force)
            if result.moved:
                aliases.move(loaded.client, version.name, alias, _history_entry(result))
            return result


def rollback(run: str, alias: str = "champion") -> RollbackResult:
    """Undoes the last promotion to an alias of RUN's registered model; repeatable, step by step.

    Raises:
        UsageError: nothing to undo, or the alias was moved by other means since.
        RunHeldError: another promotion of the model does not end.
        RunNotFoundError, TrackingError: as in `load_model`.
    """
    client = connection.connect()
    version = registry.version_of(client, runs.find_run(client, run))
    with _promotion_lock(version.name):
        undone = aliases.undo(client, version.name, alias)
    return RollbackResult(version.name, alias, undone["replaced"], undone["version"])


def _metric_of(task: Task, metric: str) -> str:
    metric = metric or task.primary_metric
    if metric not in task.metrics:
        raise UsageError(f"metric {metric!r} is not one of {', '.join(task.metrics)}")
    return metric


def _promotion_lock(name: str) -> FileLock:
    """The right to move the aliases of a registered model, among all who share RUNBACK_HOME."""
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
        moved=False,
        reason="",
    )


def _compared(
    loaded: Loaded, result: PromotionResult, data: str | None, force: bool
) -> PromotionResult:
    """The result with both scores, whether the alias is to move, and why."""
    if result.holder == result.version:
        return dataclasses.replace(result, reason="it has the alias already")
    try:
        if result.holder is not None:
            old = _holder_score(loaded, result, data)
            result = dataclasses.replace(result, holder_score=old)
        result = dataclasses.replace(result, score=_finite_score(loaded, result.metric, data))
    except UsageError as error:
        if not force:
            raise
        return dataclasses.replace(result, moved=True, reason=f"forced, though {error}")
    moved, reason = _verdict(by_name(loaded.spec.task), result, force)
    return dataclasses.replace(result, moved=moved, reason=reason)


def _verdict(task: Task, result: PromotionResult, force: bool) -> tuple[bool, str]:
    new, old, metric = result.score, result.holder_score, result.metric
    if new is None:
        return force, f"it has no finite {metric}" + (", but forced" if force else "")
    if result.holder is None:
        return True, "nobody had the alias"
    if old is None:
        return True, f"the holder has no finite {metric}"
    if task.metrics[metric].is_better(new, old):
        return True, f"its {metric} is better"
    return force, f"its {metric} is not better" + (", but forced" if force else "")


def _holder_score(loaded: Loaded, result: PromotionResult, data: str | None) -> float | None:
    with loading(f"models:/{result.model}/{result.holder}") as other:
        _require_comparable(loaded, other, result.metric)
        if data is None:
            _require_same_rows(loaded, other)
        return _finite_score(other, result.metric, data)


def _finite_score(loaded: Loaded, metric: str, data: str | None) -> float | None:
    """None where the score does not exist for these rows or is not finite."""
    value = score(loaded, data).scores.get(metric)
    return value if value is not None and abs(value) < float("inf") else None


def _require_comparable(one: Loaded, other: Loaded, metric: str) -> None:
    if one.spec.targets != other.spec.targets:
        raise UsageError(
            f"run {one.info.run_id} predicts {', '.join(one.spec.targets)}, "
            f"the holder's run {other.info.run_id} {', '.join(other.spec.targets)}"
        )
    losses = one.info.config.loss, other.info.config.loss
    if metric == "cost" and losses[0] != losses[1]:
        *most, last = (name for name in by_name(one.spec.task).metrics if name != "cost")
        raise UsageError(
            f"metric cost is {losses[0]} for one run and {losses[1]} for the other; choose "
            f"{', '.join(most)} or {last}"
        )


def _require_same_rows(one: Loaded, other: Loaded) -> None:
    """Refuses runs of different tables or different test rows; the rest of the split may differ."""
    tables = [run.info.tags.get(TAG_FINGERPRINT) for run in (one, other)]
    if tables[0] == tables[1] and split_of(one).test.equal(split_of(other).test):
        return
    raise UsageError(
        f"the test rows of run {one.info.run_id} and of the holder's run {other.info.run_id} "
        "differ; give a table that neither has seen with --data"
    )


def _history_entry(result: PromotionResult) -> dict[str, Any]:
    """What the registered model remembers of a promotion."""
    return {
        "version": result.version,
        "replaced": result.holder,
        "metric": result.metric,
        "score": result.score,
        "holder_score": result.holder_score,
        "at_ms": time.time_ns() // 1_000_000,
    }
