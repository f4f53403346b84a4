"""Lists the runs that runback has trained, and the versions of their models."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from runback.errors import TrackingError, UsageError
from runback.tracking import tags
from runback.tracking.connection import describe_error, is_permanent, repeated, request

PAGE = 1000
# Run IDs in one search for versions: the query is a part of the URL.
IDS = 50


def experiment_ids(client: MlflowClient, name: str) -> list[str]:
    """The ID of an experiment by its name or ID; all active ones for an empty name.

    Raises:
        UsageError: no such experiment.
        TrackingError: the server is unreachable.
    """
    found = request("experiments", partial(client.search_experiments, max_results=PAGE))
    chosen = [e.experiment_id for e in found if name in ("", e.name, e.experiment_id)]
    if not chosen:
        known = ", ".join(sorted(e.name for e in found)[:5])
        raise UsageError(f"no experiment {name!r}; there are: {known}")
    return chosen


def listed(
    client: MlflowClient, experiments: list[str], query: str, sort: str, most: int
) -> list[Run]:
    """The runs of experiments, the newest first or sorted by a metric.

    Raises:
        UsageError: MLflow does not understand the query or the metric.
        TrackingError: the server is unreachable.
    """
    key = sort.removeprefix("-").replace("`", "")
    direction = "DESC" if sort.startswith("-") else "ASC"
    order = [f"metrics.`{key}` {direction}"] if key else ["attributes.start_time DESC"]
    ours = f"tags.`{tags.VERSION}` != ''"
    search = partial(
        client.search_runs,
        experiments,
        filter_string=f"{query} and {ours}" if query.strip() else ours,
        max_results=min(most, PAGE),
        order_by=order,
    )
    try:
        return list(repeated(search))
    except MlflowException as error:
        kind = UsageError if is_permanent(error) else TrackingError
        raise kind(f"the search for runs: {describe_error(error)}") from error


def registered_as(
    client: MlflowClient, run_ids: list[str]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The newest version "NAME/NUMBER" of each run, with its aliases, by run ID."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    aliases: dict[str, dict[str, str]] = {}
    for ids in _parts(run_ids):
        query = "run_id IN (" + ", ".join(f"'{run_id}'" for run_id in ids) + ")"
        versions = request("model versions", partial(client.search_model_versions, query))
        for version in sorted(versions, key=lambda v: int(v.creation_timestamp)):
            name, number = version.name, str(version.version)
            if name not in aliases:
                aliases[name] = _aliases(client, name)
            held = (alias for alias, other in aliases[name].items() if other == number)
            found[str(version.run_id)] = (f"{name}/{number}", tuple(sorted(held)))
    return found


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """A search for versions gives no aliases on some stores; the registered model has them."""
    model = request(name, partial(client.get_registered_model, name))
    return {alias: str(number) for alias, number in model.aliases.items()}


def _parts(run_ids: list[str]) -> Iterable[list[str]]:
    return (run_ids[start : start + IDS] for start in range(0, len(run_ids), IDS))
