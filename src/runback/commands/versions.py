"""The versions and the commit that a run was trained with, from its artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runback.errors import TrackingError
from runback.tracking import artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERSIONS = "environment/versions.json"
PATCH = "uncommitted.patch"
COMMIT = "git_commit"

# Values as text, in the order of the runs, by name.
Differences = dict[str, tuple[str, ...]]


def versions_of(client: MlflowClient, run_id: str) -> dict[str, str]:
    """What was recorded; empty if it is missing, as of a run that was killed before its delivery."""
    try:
        found = artifacts.read_json(client, run_id, VERSIONS)
    except TrackingError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(text or "") for name, text in found.items()}


def differing(values: Sequence[Mapping[str, str]]) -> Differences:
    """The values that are not the same in all runs; empty where a run has none."""
    names = dict.fromkeys(name for found in values for name in found)
    rows = {name: tuple(found.get(name, "") for found in values) for name in names}
    return {name: texts for name, texts in rows.items() if len(set(texts)) > 1}
