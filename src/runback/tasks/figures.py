"""Figures for all tasks: cost curves and helpers. matplotlib is imported late."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.floating]
Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]
MAX_LABEL = 30
# matplotlib overflows far below the largest float64.
MAX_DRAWN = 1e100
FEW_POINTS = 20


def load_libraries() -> None:
    """Imports matplotlib."""
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)


def plot_costs(path: Path, curves: Curves) -> None:
    """Plots cost curves over epochs, on a logarithmic scale if all values are positive."""
    figure, axes = new_figure()
    lowest = math.inf
    for name, (steps, values) in curves.items():
        drawn = drawable(values)
        marker = "." if len(drawn) < FEW_POINTS else ""  # a single point has no line
        axes.plot(steps, drawn, label=label(name), linewidth=1.2, marker=marker)
        lowest = min(lowest, *drawn[np.isfinite(drawn)], math.inf)
    if MAX_DRAWN > lowest > 1 / MAX_DRAWN:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="cost")
    save_figure(figure, path)


def new_figure() -> tuple[Figure, Axes]:
    """A figure made without pyplot, which needs a display and has global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, with a grid and a legend; the folder is created if missing."""
    with_grid(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # glyphs missing in matplotlib's font
        warnings.simplefilter("ignore")
        figure.savefig(path)


def with_grid(figure: Figure) -> None:
    """Adds a grid and a legend."""
    for axes in figure.axes:
        if not axes.images:  # lines over an image's cells mislead
            axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)


def drawable(values: Sequence[float] | Array) -> npt.NDArray[np.float64]:
    """The values as float64, with NaN (a gap) for values that cannot be drawn."""
    drawn = np.array(values, dtype=np.float64)
    drawn[~(np.abs(drawn) <= MAX_DRAWN)] = np.nan
    return drawn


def label(name: str, most: int = MAX_LABEL) -> str:
    """A name escaped for matplotlib: `$` begins a formula, `_` hides a legend entry."""
    shown = name if len(name) <= most else name[:most] + "..."
    return (" " if name.startswith("_") else "") + shown.replace("$", r"\$")
