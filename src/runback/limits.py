"""What MLflow accepts: names, keys, values and their lengths. Imports no mlflow.

MLflow checks some of this only when a value arrives, which for a model is after the training, and
some of it not at all: SQLite stores texts that are longer than a column, other databases refuse them.
The functions return what is wrong with a text, or "" where MLflow accepts it.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

# mlflow.utils.validation: MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH. Longer
# params and tags are truncated without an error.
MAX_KEY: Final = 250
MAX_PARAM: Final = 6000
MAX_TAG: Final = 8000
# Of the tag with what is recorded of a run (tracking.run_tag): its options as JSON, and the rest
# without the path of the table.
MAX_OPTIONS: Final = 6800
REST_OF_TAG: Final = 700
MAX_RUN_NAME: Final = 250  # runs.name
MAX_EXPERIMENT_NAME: Final = 500
MAX_DATASET_NAME: Final = 500
MAX_DATASET_SCHEMA: Final = 65_535  # of servers before 3.0; 1,048,575 since
# Columns of the registry's tables: registered_models.name, registered_model_tags.value,
# model_versions.description.
MAX_MODEL_NAME: Final = 256
MAX_REGISTRY_TAG: Final = 5000
MAX_DESCRIPTION: Final = 5000
MAX_ALIAS: Final = 255

_KEY = re.compile(r"[/\w.\- :]*")
_ALIAS = re.compile(r"[\w-]*")
_VERSION = re.compile(r"v\d+", re.IGNORECASE)
_MAX_FILE_NAME: Final = 255  # bytes, of most file systems


def text_problem(text: str, limit: int) -> str:
    """For a param, a tag, or another text: it is too long, or not text that a database stores."""
    if len(text) > limit:
        return f"longer than {limit} characters, MLflow's limit"
    if "\0" in text:
        return "contains a NUL character"
    return "" if _is_utf8(text) else "is not UTF-8 text"


def key_problem(key: str) -> str:
    """For the key of a param, a metric or a tag."""
    if not _KEY.fullmatch(key):
        return "has characters other than letters, digits, _ - . : / and spaces"
    return _path_problem(key) or text_problem(key, MAX_KEY)


def model_name_problem(name: str) -> str:
    """For the name of a registered model."""
    if not name.strip():
        return "is empty"
    if "/" in name or ":" in name:
        return "contains / or :"
    if not name.isprintable():
        return "has a character that cannot be printed"
    return _path_problem(name) or text_problem(name, MAX_MODEL_NAME)


def alias_problem(alias: str, key_prefix: str = "") -> str:
    """For an alias of a registered model that also ends a tag's key, after `key_prefix`."""
    if not alias:
        return "is empty"
    if not _ALIAS.fullmatch(alias):
        return "has characters other than letters, digits, _ and -"
    if alias.lower() == "latest" or _VERSION.fullmatch(alias):
        return "is reserved by MLflow"
    most = min(MAX_ALIAS, MAX_KEY - len(key_prefix))
    return text_problem(alias, most) or key_problem(key_prefix + alias)


def experiment_name_problem(name: str) -> str:
    """For the name of an experiment."""
    return text_problem(name, MAX_EXPERIMENT_NAME) if name.strip() else "is empty"


def column_problem(name: str) -> str:
    """For a column in a model's signature: MLflow takes an empty name for a missing one."""
    if not name:
        return "is empty"
    return "" if _is_utf8(name) else "is not UTF-8 text"


def artifact_path_problem(path: str) -> str:
    """For the path of an artifact below the artifacts of a run."""
    if not path:
        return "is empty"
    if "\\" in path or not path.isprintable():
        return "has a backslash or a character that cannot be printed"
    if any(len(part.encode()) > _MAX_FILE_NAME for part in path.split("/")):
        return f"has a name of more than {_MAX_FILE_NAME} bytes"
    return "has a %, # or ?, which URIs reserve" if set(path) & set("%#?") else _path_problem(path)


def _path_problem(name: str) -> str:
    """MLflow uses names as paths: they must be relative, and equal to themselves when normalized."""
    is_path = posixpath.normpath(name) == name and name != "." and not name.startswith(("..", "/"))
    return "" if is_path else "is not a name but a path such as ./a, a//b or ../a"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
