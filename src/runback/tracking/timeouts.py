"""Timeouts for the tracking server, from the environment. Imports no mlflow."""

from __future__ import annotations

import os

from runback.errors import ConfigError


def connect_seconds() -> float:
    """Seconds to wait for the tracking server at the start: `RUNBACK_CONNECT_SECONDS`, default 15.

    Raises:
        ConfigError: the value is not a number of at least 0.
    """
    return _seconds("RUNBACK_CONNECT_SECONDS", 15.0)


def drain_seconds() -> float:
    """Seconds without success after which the courier stops delivering when the training has ended:
    `RUNBACK_DRAIN_SECONDS`, default 60.

    Raises:
        ConfigError: the value is not a number of at least 0.
    """
    return _seconds("RUNBACK_DRAIN_SECONDS", 60.0)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{variable}: {text!r} is not a number of seconds, such as {default:g}")
    return value
