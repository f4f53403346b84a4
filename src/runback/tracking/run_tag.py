"""The tag `runback.run`: one JSON object with what is only read together with its run.

It is written when a run is created, described or resumed, each time by the process that holds the run.
Imports no mlflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from runback.decoding import decode
from runback.errors import TrackingError, UsageError
from runback.limits import MAX_TAG
from runback.tracking.tags import RUN

# The entries
CONFIG: Final = "config"  # an object of options as text
CHANGED: Final = "changed"  # likewise, the options that resumes have changed
DATA_PATH: Final = "data_path"
DATA_FINGERPRINT: Final = "data_fingerprint"
MARK: Final = "creation"  # of the pending directory that the run was created from
JOURNAL: Final = "journal"  # identity of the journal that wrote the run last
RESUMED: Final = "resumed"  # the completed epochs at which it was resumed
FORK: Final = "fork"  # of a fork: the epoch, and what it has taken over and changed

Value = str | int | list[str]
Entry = str | list[int] | dict[str, str] | dict[str, Value]
Facts = Mapping[str, Entry]


def facts_of(stored: Mapping[str, str]) -> dict[str, Any]:
    """The entries in the tags of a run; empty without the tag.

    Raises:
        TrackingError: the tag is damaged.
    """
    try:
        facts = decode(json.loads, stored.get(RUN, "{}"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise TrackingError(f"tag {RUN} is damaged: not a JSON object")
    return facts


def merged(stored: Mapping[str, str], new: Facts) -> dict[str, str]:
    """The tag with new entries, by its name; changes of options are added to the earlier ones.

    Raises:
        TrackingError: the tag is damaged.
        UsageError: it would be longer than MLflow's limit.
    """
    before = facts_of(stored)
    changed = {**_mapping(before.get(CHANGED)), **_mapping(new.get(CHANGED))}
    return as_tag({**before, **new, **({CHANGED: changed} if changed else {})})


def as_tag(facts: Facts) -> dict[str, str]:
    """The tag with these entries, by its name; none without entries.

    Raises:
        UsageError: it is longer than MLflow's limit.
    """
    text = _text(facts)
    if len(text) > MAX_TAG:  # the places of resumes are only shown
        text = _text({name: value for name, value in facts.items() if name != RESUMED})
    if len(text) > MAX_TAG:
        raise UsageError(
            f"the options and paths of the run have {len(text)} characters, and MLflow's limit for "
            f"the tag {RUN} is {MAX_TAG}; give shorter ones"
        )
    return {RUN: text} if facts else {}


def query(mark: str) -> str:
    """The filter of MLflow's search for the runs that were created from a pending directory."""
    return f"tags.`{RUN}` LIKE '%{_text({MARK: mark})[1:-1]}%'"


def _text(facts: Facts) -> str:
    return json.dumps(facts, ensure_ascii=False, sort_keys=True)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
