"""What a user's loop may record: names, params, metrics and state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from runback.errors import UsageError
from runback.limits import MAX_PARAM, MAX_RUN_NAME, MAX_TAG, key_problem, text_problem


def require_name(name: str) -> str:
    """The name of a run.

    Raises:
        UsageError: it is no text, is empty, or the store would refuse it.
    """
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"run: the name is {name!r}; give a text")
    if problem := text_problem(name, MAX_RUN_NAME):
        raise UsageError(f"run: the name {problem}")
    return name


def params_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as text.

    Raises:
        UsageError: the store would refuse one; it is named.
    """
    texts = {str(name): str(value) for name, value in params.items()}
    for name, text in texts.items():
        if problem := key_problem(name) or text_problem(text, MAX_PARAM):
            raise UsageError(f"run: param {name!a} {problem}")
        if name == "seed":
            raise UsageError("run: param seed is recorded from the argument seed")
    return texts


def require_same(recorded: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Checks the params of a run that is resumed; it may have others, from a launcher.

    Raises:
        UsageError: one differs; it is named.
    """
    for name, text in given.items():
        if recorded.get(name) != text:
            raise UsageError(
                f"param {name}: the run has {recorded.get(name, 'none')}, not {text}; give the same "
                "params, or another key for a new run"
            )


def require_tag(name: str, value: str) -> None:
    """Checks a tag.

    Raises:
        UsageError: the store would refuse it, or MLflow or runback uses the name.
    """
    if problem := key_problem(name) or text_problem(value, MAX_TAG):
        raise UsageError(f"tag {name!a}: {problem}")
    if name.startswith(("mlflow.", "runback.")):
        raise UsageError(f"tag {name}: names that begin with mlflow. or runback. are reserved")


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Metrics as numbers; those of a nested mapping are named "outer/inner".

    Args:
        values: numbers, tensors or arrays of one element, or mappings of them.
        prefix: of the names.

    Raises:
        UsageError: a value is not a number, or the store would refuse its name.
    """
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= numbers(value, f"{name}/")
        else:
            found[name] = _number(name, value)
    return found


def _number(name: str, value: Any) -> float:
    if problem := key_problem(name):
        raise UsageError(f"metric {name!a}: the name {problem}")
    try:
        if not isinstance(value, str | bytes):
            return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise UsageError(f"metric {name}: {_described(value)} is not a number")


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return kind if shape is None else f"a {kind} of shape {list(shape)}"


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a run's state.

    Raises:
        UsageError: a value is not one of JSON; it is named.
    """
    return {_key(key, "state"): _copied(value, f"state[{key!r}]") for key, value in state.items()}


def _copied(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {_key(key, where): _copied(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise UsageError(
        f"{where}: {_described(value)} cannot be kept; use text, numbers, lists and dicts, or an "
        "object with state_dict and load_state_dict in keep"
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where}: the key {key!r} is not text")
    return key
