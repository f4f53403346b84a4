"""Curves as one line of text each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
# For terminals that cannot show the blocks.
LETTERS = "_.-=+*%#"
WIDTH = 56

# MLflow stores an infinity as the largest float64, beside which no other value could be told.
LARGEST = 1e100

# Steps and values.
Curve = Sequence[tuple[int, float]]


def curve_lines(curves: Mapping[str, Curve], marks: str = BLOCKS) -> list[str]:
    """A line for each curve, then one with the axes; empty without a value that can be shown.

    All curves share both axes; the vertical one is logarithmic if all values are positive. A column
    is the mean of its epochs; values that are not finite, or above 1e100, are left out.

    Args:
        curves: by name.
        marks: from the lowest to the highest.
    """
    finite = {n: [p for p in curve if abs(p[1]) <= LARGEST] for n, curve in curves.items()}
    shown = {name: curve for name, curve in finite.items() if curve}
    points = [point for curve in shown.values() for point in curve]
    if not points:
        return []
    steps, values = [step for step, _ in points], [value for _, value in points]
    span, low, high = (min(steps), max(steps)), min(values), max(values)
    scale = math.log if low > 0 else float
    texts = {
        name: _drawn([(step, scale(v)) for step, v in curve], span, scale(low), scale(high), marks)
        for name, curve in shown.items()
    }
    width = max(map(len, curves))
    starts = {name: _number(curve[0][1]) for name, curve in curves.items() if curve}
    pad = max(len(text) for text in starts.values())
    kind = "log" if low > 0 else "linear"
    axes = f"epochs {span[0]} to {span[1]}, {kind} scale from {low:.6g} to {high:.6g}"
    lines = [
        f"{name:<{width}}  {start:>{pad}} {texts.get(name, '')} {_number(curves[name][-1][1])}"
        for name, start in starts.items()
    ]
    return [*lines, f"{'':<{width + pad + 3}}{axes}"]


def _number(value: float) -> str:
    """A value as text, with the infinity that MLflow has stored as a number."""
    return f"{math.copysign(math.inf, value) if abs(value) > LARGEST else value:.6g}"


def _drawn(curve: Curve, span: tuple[int, int], low: float, high: float, marks: str) -> str:
    """A curve as marks, one for each column; a column without a value is a space."""
    first, length = span[0], span[1] - span[0] + 1
    width = min(WIDTH, length)
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in curve:
        columns[(step - first) * width // length].append(value)
    return "".join(_mark(values, low, high, marks) for values in columns)


def _mark(values: list[float], low: float, high: float, marks: str) -> str:
    if not values:
        return " "
    height = (math.fsum(values) / len(values) - low) / (high - low) if high > low else 0.0
    return marks[min(len(marks) - 1, max(0, int(height * len(marks))))]
