"""Aliases of registered models, and their history.

The history of each alias is a tag of the registered model, a list of promotions, so that they can
be undone one by one. The oldest are dropped where it would exceed the length of a tag; the tag says how
many were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from runback.decoding import decode
from runback.errors import TrackingError, UsageError
from runback.limits import MAX_REGISTRY_TAG
from runback.tracking import tags
from runback.tracking.connection import describe_error, is_permanent

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
    entries = history(client, name, alias)
    entries = History([*entries.promotions, entry], entries.dropped)
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
    if not entries.promotions:
        raise UsageError(f"models:/{name}@{alias}: no promotion to undo{_dropped_text(entries)}")
    last = entries.promotions[-1]
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
    _store_history(client, name, alias, History(entries.promotions[:-1], entries.dropped))
    return last


@dataclass(frozen=True)
class History:
    """The promotions to an alias that can be undone, the latest last.

    Attributes:
        promotions: each with the keys `version` (a version's number) and `replaced` (another, or
            None), and others that are shown only.
        dropped: number of older promotions that no longer fit.
    """

    promotions: list[dict[str, Any]]
    dropped: int = 0

    def as_tag(self) -> str:
        """The tag's value, with as many of the latest promotions as fit."""
        for first in range(len(self.promotions) + 1):
            kept, dropped = self.promotions[first:], self.dropped + first
            text = json.dumps({"dropped": dropped, "promotions": kept} if dropped else kept)
            if len(text) <= MAX_REGISTRY_TAG:
                break
        return text

    @classmethod
    def from_tag(cls, text: str) -> History:
        """Parses a tag's value.

        Raises:
            ValueError: it is not one of `as_tag`.
        """
        stored = decode(json.loads, text)
        if isinstance(stored, list):
            stored = {"dropped": 0, "promotions": stored}
        if not _is_history(stored):
            raise ValueError("not a list of promotions")
        return cls(stored["promotions"], stored["dropped"])


def history(client: MlflowClient, name: str, alias: str) -> History:
    """The promotions that can be undone.

    Raises:
        UsageError: no such registered model.
        TrackingError: the tag is damaged, or the server is unreachable.
    """
    model = _request(name, lambda: client.get_registered_model(name))
    key = tags.PROMOTIONS + alias
    try:
        return History.from_tag(model.tags.get(key, "[]"))
    except ValueError:
        raise TrackingError(
            f"registered model {name!r}: tag {key} is damaged: not a list of promotions; delete the "
            "tag to go on without them"
        ) from None


def _is_history(stored: Any) -> bool:
    if not isinstance(stored, dict) or not isinstance(stored.get("promotions"), list):
        return False
    dropped = stored.get("dropped")
    return type(dropped) is int and dropped >= 0 and all(map(_is_promotion, stored["promotions"]))


def _is_promotion(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"version", "replaced"} <= entry.keys():
        return False
    return _is_number(entry["version"]) and (
        entry["replaced"] is None or _is_number(entry["replaced"])
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) is not None


def _dropped_text(entries: History) -> str:
    return f"; {entries.dropped} older ones are no longer recorded" if entries.dropped else ""


def _store_history(client: MlflowClient, name: str, alias: str, entries: History) -> None:
    key, text = tags.PROMOTIONS + alias, entries.as_tag()
    _request(name, lambda: client.set_registered_model_tag(name, key, text))


def _request(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except MlflowException as error:
        kind = UsageError if is_permanent(error) else TrackingError
        raise kind(f"{what}: {describe_error(error)}") from error
