"""Text for a terminal: columns, numbers, and what can be printed."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells with columns of equal width; all have the same number of cells."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]


def number(value: float | None) -> str:
    """A number with six digits; empty for None."""
    return "" if value is None else f"{value:.6g}"


def plain(text: str) -> str:
    """A text with spaces in the place of characters that cannot be printed."""
    return "".join(c if c.isprintable() else " " for c in text)
