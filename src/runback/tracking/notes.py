"""Notes that MLflow's UI shows above a run or an experiment; those of users are left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from runback.tracking import tags


def note_tags(stored: Mapping[str, str], text: str) -> dict[str, str]:
    """The tags that set a note; empty if a user has written or edited the one that is there.

    Args:
        stored: the tags of the run or the experiment.
        text: the note.
    """
    found = stored.get(tags.NOTE, "")
    if found and _sha256(found) != stored.get(tags.NOTE_SHA256):
        return {}
    return {tags.NOTE: text, tags.NOTE_SHA256: _sha256(text)}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
