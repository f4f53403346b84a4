"""Decoding of text that a file or a store contains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def decode(decoder: Callable[[str], Any], text: str) -> Any:
    """Decodes untrusted text, by `json.loads` for instance.

    Raises:
        ValueError: the text is malformed, or nested too deeply.
    """
    try:
        return decoder(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
