"""The forms of RUN, checked without a request. Imports no mlflow."""

from __future__ import annotations

import re

from runback.errors import RunNotFoundError
from runback.limits import MAX_RUN_NAME

PREFIX_LENGTH = 4
FORMS = (
    f"RUN is a run ID, a unique prefix of one ({PREFIX_LENGTH} characters or more), the "
    "name of one run, latest, runs:/ID, models:/NAME/VERSION or models:/NAME@ALIAS"
)
MODEL_URI = re.compile(r"models:/([^/]+)(?:/([0-9]+)|@([^/@]+))")
# An ID, a prefix or a run's name, which may have spaces, but no quotes, and no / : @ of URIs.
_ID = re.compile(rf"[^/\\:@'\"`\x00-\x1f\x7f]{{{PREFIX_LENGTH},{MAX_RUN_NAME}}}")


def run_id_in(name: str) -> str:
    """The run ID, or the prefix of one, in `ID` or `runs:/ID/...`."""
    return name.removeprefix("runs:/").split("/")[0]


def require_form(name: str) -> None:
    """Checks that RUN can name a run.

    Raises:
        RunNotFoundError: it has none of the forms.
    """
    if not name:
        raise RunNotFoundError("RUN is empty; give a run ID, a unique prefix of one, or latest")
    text = name if name.startswith("models:/") else run_id_in(name)
    form = MODEL_URI if name.startswith("models:/") else _ID
    if not form.fullmatch(text):
        raise RunNotFoundError(f"no run {text!r}; {FORMS}")
