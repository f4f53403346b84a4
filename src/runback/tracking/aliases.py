"""Aliases of registered models, and their history.

The history of each alias is a tag of the registered model, a list of promotions, so that they can
be undone one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from runback.errors import TrackingError, UsageError
from runback.tracking import tags
from runback.tracking.connection import describe_error, is_permanent

# MLflow's limit is 5000 characters a tag; an entry has about 100.
MAX_HISTORY = 40
T = TypeVar("T")


def holder_of(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that has an alias; None if the alias is not set.

    Raises:
        UsageError: no such registered model.
        TrackingError: the server is unreachable.
    """
    model = _request(name, lambda: client.get_registered_model(name))
    number = model.aliases.get(alias)
    return (
        None if number is None else _request(name, lambda: client.get_model_version(name, number))
    )


def move(client: MlflowClient, name: str, alias: str, entry: dict[str, Any]) -> None:
    """Sets an alias to `entry["version"]` and adds the entry to the history.

    Raises:
        UsageError: MLflow rejects the alias.
        TrackingError: the server is unreachable.
    """
    entries = [*history(client, name, alias), entry]
    _request(
        f"alias {alias!r}",
        lambda: client.set_registered_model_alias(name, alias, str(entry["version"])),
    )
    _store_history(client, name, alias, entries)


def undo(client: MlflowClient, name: str, alias: str) -> dict[str, Any]:
    """Undoes the last promotion to an alias; returns its history entry.

    Raises:
        UsageError: no promotion to undo, or the alias was changed by other means since.
        TrackingError: the server is unreachable.
    """
    entries, holder = history(client, name, alias), holder_of(client, name, alias)
    if not entries:
        raise UsageError(f"models:/{name}@{alias}: no promotion to undo")
    last = entries.pop()
    if holder is None or str(holder.version) != str(last["version"]):
        now = f"version {holder.version}" if holder else "no version"
        raise UsageError(
            f"models:/{name}@{alias}: {now} has it, not version {last['version']}, which was last "
            "promoted; it was moved by other means, so set it by hand"
        )
    if last["replaced"] is None:
        _request(name, lambda: client.delete_registered_model_alias(name, alias))
    else:
        replaced = str(last["replaced"])
        _request(name, lambda: client.set_registered_model_alias(name, alias, replaced))
    _store_history(client, name, alias, entries)
    return last


def history(client: MlflowClient, name: str, alias: str) -> list[dict[str, Any]]:
    """The promotions that can be undone, the latest last."""
    model = _request(name, lambda: client.get_registered_model(name))
    entries: list[dict[str, Any]] = json.loads(model.tags.get(tags.PROMOTIONS + alias, "[]"))
    return entries


def _store_history(
    client: MlflowClient, name: str, alias: str, entries: list[dict[str, Any]]
) -> None:
    text = json.dumps(entries[-MAX_HISTORY:])
    _request(name, lambda: client.set_registered_model_tag(name, tags.PROMOTIONS + alias, text))


def _request(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except MlflowException as error:
        kind = UsageError if is_permanent(error) else TrackingError
        raise kind(f"{what}: {describe_error(error)}") from error
