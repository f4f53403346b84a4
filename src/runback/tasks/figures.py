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
MAX_TITLE = 60
# matplotlib overflows far below the largest float64.
MAX_DRAWN = 1e100
FEW_POINTS = 20
# More changes of the learning rate are a schedule, whose curve says enough.
FEW_CHANGES = 6
# More points overlap, and are drawn as a density.
MANY_POINTS = 1000


def load_libraries() -> None:
    """Imports matplotlib."""
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)


def plot_costs(
    path: Path,
    curves: Curves,
    title: str = "",
    best: tuple[int, float] | None = None,
    rates: tuple[Sequence[int], Sequence[float]] = ((), ()),
    resumes: Sequence[int] = (),
) -> None:
    """Plots cost curves over epochs, on a logarithmic scale if positive values span decades.

    Args:
        path: of the PNG.
        curves: epochs and values by name.
        title: of the figure.
        best: the epoch with the lowest val_cost and its value, which are marked.
        rates: epochs from which the learning rate has a value, and the values; drawn below the costs
            if there is more than one, and marked in the costs if they are few.
        resumes: completed epochs at which the run was resumed, which are marked.
    """
    figure, axes = new_figure()
    if len(rates[0]) > 1:
        axes = _with_rates(figure, rates, max(max(steps) for steps, _ in curves.values()))
    lowest, highest = math.inf, -math.inf
    for name, (steps, values) in curves.items():
        drawn = drawable(values)
        marker = "." if len(drawn) < FEW_POINTS else ""  # a single point has no line
        axes.plot(steps, drawn, label=label(name), linewidth=1.2, marker=marker)
        finite = drawn[np.isfinite(drawn)]
        lowest = min(lowest, *finite, math.inf)
        highest = max(highest, *finite, -math.inf)
    if best is not None and abs(best[1]) <= MAX_DRAWN:
        text = f"best: epoch {best[0]}, {best[1]:.4g}"
        axes.plot(*best, "o", markersize=7, fillstyle="none", color="black", label=text)
    if _spans_decades(lowest, highest):
        axes.set_yscale("log")
    if 1 < len(rates[0]) <= FEW_CHANGES:
        _mark_epochs(axes, [step - 1 for step in rates[0][1:]], "new lr", "0.6")
    _mark_epochs(axes, resumes, "resumed", "C2")
    axes.set(ylabel="cost", title=label(title, MAX_TITLE))
    figure.axes[-1].set_xlabel("epoch")
    figure.axes[-1].locator_params(axis="x", integer=True, min_n_ticks=1)
    save_figure(figure, path)


def _spans_decades(lowest: float, highest: float) -> bool:
    """Whether values need a logarithmic scale, and can have one."""
    return MAX_DRAWN > lowest > 1 / MAX_DRAWN and highest >= 10 * lowest


def _mark_epochs(axes: Axes, epochs: Sequence[int], name: str, color: str) -> None:
    """Vertical lines after some completed epochs, which have one entry in the legend."""
    for index, epoch in enumerate(epochs):
        text = (f"{name} ({len(epochs)})" if len(epochs) > 1 else name) if index == 0 else ""
        axes.axvline(epoch + 0.5, color=color, linewidth=1, linestyle=":", label=text, zorder=1)


def _with_rates(figure: Figure, rates: tuple[Sequence[int], Sequence[float]], last: int) -> Axes:
    """Adds axes with the learning rate below new axes for the costs, which are returned."""
    figure.clear()
    upper: Axes
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    steps, values = [*rates[0], last], drawable([*rates[1], rates[1][-1]])
    lower.step(steps, values, where="post", color="0.3", linewidth=1.2)
    if len(rates[0]) <= FEW_CHANGES and _spans_decades(min(values), max(values)):
        lower.set_yscale("log")
    lower.set(ylabel="lr")
    return upper


def plot_fit(
    points: Mapping[str, tuple[Array, Array]], curve: tuple[Array, Array], names: tuple[str, str]
) -> Figure:
    """A model of one feature as a curve through the points.

    Args:
        points: values of the feature and of the target, by the name of their part.
        curve: values of the feature in ascending order, and the predictions for them.
        names: of the feature and of the target.
    """
    figure, axes = new_figure()
    colors = iter(("0.65", "C0"))
    for name, (x, y) in points.items():
        step = -(-len(x) // MANY_POINTS)
        text = label(f"{name} rows" if step <= 1 else f"1 in {step} {name} rows")
        values = drawable(x[::step]), drawable(y[::step])
        axes.scatter(*values, s=12, color=next(colors), alpha=0.8, linewidths=0, label=text)
    axes.plot(drawable(curve[0]), drawable(curve[1]), color="C3", linewidth=1.6, label="model")
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    axes.set_title(f"Fit: {label(names[1])} over {label(names[0])}")
    return figure


def new_figure() -> tuple[Figure, Axes]:
    """A figure made without pyplot, which needs a display and has global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def scatter(axes: Axes, x: Array, y: Array, name: str) -> None:
    """Draws points, or their density where they are many, with a scale of its own."""
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() <= MANY_POINTS:
        axes.scatter(x, y, s=14, alpha=0.7, label=label(name))
        return
    cells = axes.hexbin(
        x[finite], y[finite], gridsize=40, mincnt=1, bins="log", cmap="viridis", linewidths=0.1
    )
    axes.figure.colorbar(cells, ax=axes, label="rows")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, with a grid and a legend; the folder is created if missing."""
    _add_grid(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # glyphs missing in matplotlib's font
        warnings.simplefilter("ignore")
        figure.savefig(path)


def _add_grid(figure: Figure) -> None:
    """Adds a grid and a legend."""
    for axes in figure.axes:
        if not axes.images:  # lines over an image's cells mislead
            axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(edgecolor="none")  # lines behind it stay readable


def drawable(values: Sequence[float] | Array) -> npt.NDArray[np.float64]:
    """The values as float64, with NaN (a gap) for values that cannot be drawn."""
    drawn = np.array(values, dtype=np.float64)
    drawn[~(np.abs(drawn) <= MAX_DRAWN)] = np.nan
    return drawn


def label(name: str, most: int = MAX_LABEL) -> str:
    """A name escaped for matplotlib: `$` begins a formula, `_` hides a legend entry."""
    shown = name if len(name) <= most else name[:most] + "..."
    return (" " if name.startswith("_") else "") + shown.replace("$", r"\$")
