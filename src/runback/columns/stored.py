"""Validation of the stored description of a column: what a model folder contains is data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_YEARS = 10_000


def text(stored: Mapping[str, Any], entry: str) -> str:
    """An entry that is text.

    Raises:
        ValueError: it is missing or something else; so for all functions of this module.
    """
    value = stored.get(entry)
    if not isinstance(value, str):
        raise _invalid(entry, value)
    return value


def flag(stored: Mapping[str, Any], entry: str) -> bool:
    """An entry that is true or false."""
    value = stored.get(entry)
    if not isinstance(value, bool):
        raise _invalid(entry, value)
    return value


def number(stored: Mapping[str, Any], entry: str) -> float:
    """An entry that is a finite number."""
    value = stored.get(entry)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(entry, value)
    return float(value)


def whole(stored: Mapping[str, Any], entry: str, low: int, high: int) -> int:
    """An entry that is a whole number in [low, high]."""
    value = stored.get(entry)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _invalid(entry, value)
    return value


def distinct_texts(stored: Mapping[str, Any], entry: str, most: int) -> tuple[str, ...]:
    """An entry that is a sorted list of different texts, at most `most` of them."""
    value = stored.get(entry)
    if not isinstance(value, list | tuple) or len(value) > most:
        raise _invalid(entry, value)
    if not all(isinstance(item, str) for item in value) or sorted(set(value)) != list(value):
        raise _invalid(entry, value)
    return tuple(value)


def _invalid(entry: str, value: Any) -> ValueError:
    shown = repr(value)
    return ValueError(f"the entry {entry!r} is {shown if len(shown) < 80 else shown[:80] + '...'}")
