"""The forms of RUN, checked without a request. Imports no mlflow."""

from __future__ import annotations

import re

from runback.errors import RunNotFoundError

PREFIX_LENGTH = 4
FORMS = (
    f"RUN is a run ID, a unique prefix of one ({PREFIX_LENGTH} characters or more), latest, "
    "runs:/ID, models:/NAME/VERSION or models:/NAME@ALIAS"
)
MODEL_URI = re.compile(r"models:/([^/]+)(?:/([0-9]+)|@([^/@]+))")
_ID = re.compile(rf"[A-Za-z0-9_-]{{{PREFIX_LENGTH},}}")


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
