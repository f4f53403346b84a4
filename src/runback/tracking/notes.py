"""Notes that MLflow's UI shows above a run or an experiment; those of users are left alone.

A note that runback writes ends with a Markdown comment, which the UI does not show: its digest tells
whether a user has edited the note since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from runback.tracking import tags

_SIGNATURE = re.compile(r"\n\n<!-- runback ([0-9a-f]{16}) -->\Z")


def note_tags(stored: Mapping[str, str], text: str) -> dict[str, str]:
    """The tag that sets a note; empty if a user has written or edited the one that is there.

    Args:
        stored: the tags of the run or the experiment.
        text: the note.
    """
    found = stored.get(tags.NOTE, "")
    return {tags.NOTE: signed(text)} if not found or _is_ours(found) else {}


def signed(text: str) -> str:
    """A note as runback stores it."""
    return f"{text}\n\n<!-- runback {_digest(text)} -->"


def _is_ours(note: str) -> bool:
    found = _SIGNATURE.search(note)
    return found is not None and found[1] == _digest(note[: found.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
