"""`runback promote`: an alias goes to the better model, judged on the same test rows."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from runback.commands.load import Loaded, loading, score, split_of
from runback.errors import UsageError
from runback.storage.lock import FileLock
from runback.storage.paths import home
from runback.tasks.regression import is_better
from runback.tracking import aliases, connection, registry, runs
from runback.tracking.runs import TAG_FINGERPRINT

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

METRICS = ("cost", "rmse", "mae", "r2")
# Others' promotions of the same model go first, and each may score two large tables.
TURN_SECONDS = 600.0


def promote(
    run: str,
    alias: str = "champion",
    metric: str = "rmse",
    data: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Moves an alias to RUN's version if RUN beats the holder on the same test rows.

    Promotions that share RUNBACK_HOME take turns, so that each is judged against the holder it
    replaces. Not covered are those of another home or machine, and whoever moves the alias by
    other means at the same moment: MLflow has no compare-and-swap.

    Args:
        run: in any form that names a run; it must have a registered version.
        alias: of the registered model.
        metric: cost, rmse, mae (smaller is better) or r2 (larger is better).
        data: a table to score both on, instead of the runs' own test rows.
        force: move it whatever the figures say, also where there are none to compare.

    Returns:
        `model`, `alias`, `version`, `score`, the holder's version as `holder` and its
        `holder_score` (None where nobody had the alias), `metric`, `moved`, and `reason`.

    Raises:
        UsageError: RUN is not registered, or the two cannot be compared.
        RunHeldError: another promotion of the model does not end.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
        DataError: a table is missing or has changed.
    """
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    with loading(run) as loaded:
        version = registry.version_of(loaded.client, loaded.info)
        with _turn(version.name):
            holder = aliases.holder_of(loaded.client, version.name, alias)
            found = _compared(loaded, version, holder, metric, data, force)
            if found["moved"]:
                aliases.move(loaded.client, version.name, alias, _entry(found))
        return {"model": version.name, "alias": alias, **found}


def rollback(run: str, alias: str = "champion") -> dict[str, Any]:
    """Undoes the last promotion to an alias of RUN's registered model; repeatable, step by step.

    Returns:
        `model`, `alias`, the `version` that has it now (None: nobody), and whom it was taken from
        as `replaced`.

    Raises:
        UsageError: nothing to undo, or the alias was moved by other means since.
        RunHeldError: another promotion of the model does not end.
        RunNotFoundError, TrackingError: as in `load_model`.
    """
    client = connection.connect()
    version = registry.version_of(client, runs.find_run(client, run))
    with _turn(version.name):
        undone = aliases.undo(client, version.name, alias)
    return {
        "model": version.name,
        "alias": alias,
        "version": undone["replaced"],
        "replaced": undone["version"],
    }


def _turn(name: str) -> FileLock:
    """The right to move the aliases of a registered model, among all who share RUNBACK_HOME."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = FileLock(home() / f"promotion-{digest}.lock")
    return lock.acquire(f"model {name}, for a promotion,", TURN_SECONDS)


def _compared(
    loaded: Loaded,
    version: ModelVersion,
    holder: ModelVersion | None,
    metric: str,
    data: str | None,
    force: bool,
) -> dict[str, Any]:
    """Both figures, whether the alias is to move, and why."""
    found: dict[str, Any] = {
        "version": str(version.version),
        "holder": str(holder.version) if holder else None,
        "metric": metric,
        "score": None,
        "holder_score": None,
    }
    if holder is not None and str(holder.version) == str(version.version):
        return {**found, "moved": False, "reason": "it has the alias already"}
    try:
        if holder is not None:
            found["holder_score"] = _holder_score(loaded, holder, metric, data)
        found["score"] = _figure(loaded, metric, data)
    except UsageError as error:
        if not force:
            raise
        return {**found, "moved": True, "reason": f"forced, though {error}"}
    moved, reason = _verdict(found, metric, force)
    return {**found, "moved": moved, "reason": reason}


def _verdict(found: dict[str, Any], metric: str, force: bool) -> tuple[bool, str]:
    new, old = found["score"], found["holder_score"]
    if new is None:
        return force, f"it has no finite {metric}" + (", but forced" if force else "")
    if found["holder"] is None:
        return True, "nobody had the alias"
    if old is None:
        return True, f"the holder has no finite {metric}"
    if is_better(metric, new, old):
        return True, f"its {metric} is better"
    return force, f"its {metric} is not better" + (", but forced" if force else "")


def _holder_score(
    loaded: Loaded, holder: ModelVersion, metric: str, data: str | None
) -> float | None:
    with loading(f"models:/{holder.name}/{holder.version}") as other:
        _require_comparable(loaded, other, metric)
        if data is None:
            _require_same_rows(loaded, other)
        return _figure(other, metric, data)


def _figure(loaded: Loaded, metric: str, data: str | None) -> float | None:
    """None where the predictions are not finite, or r2 of a single row was asked for."""
    value = score(loaded, data)["scores"].get(metric)
    return value if value is not None and abs(value) < float("inf") else None


def _require_comparable(one: Loaded, other: Loaded, metric: str) -> None:
    if one.spec.targets != other.spec.targets:
        raise UsageError(
            f"run {one.info.run_id} predicts {', '.join(one.spec.targets)}, "
            f"the holder's run {other.info.run_id} {', '.join(other.spec.targets)}"
        )
    losses = one.info.config.loss, other.info.config.loss
    if metric == "cost" and losses[0] != losses[1]:
        raise UsageError(
            f"metric cost is {losses[0]} for one run and {losses[1]} for the other; choose rmse, "
            "mae or r2"
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


def _entry(found: dict[str, Any]) -> dict[str, Any]:
    """What the registered model remembers of a promotion."""
    return {
        "version": found["version"],
        "replaced": found["holder"],
        "metric": found["metric"],
        "score": found["score"],
        "holder_score": found["holder_score"],
        "at_ms": time.time_ns() // 1_000_000,
    }
