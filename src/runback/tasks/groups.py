"""Where a model is wrong: the mean error in groups of rows, by the values of one column each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runback.columns.category import OTHER, CategoryColumn
from runback.columns.column import Column
from runback.columns.layout import EncodedColumn, Layout
from runback.tasks import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]
QUANTILES = 4
# A group of fewer rows says nothing; more groups cannot be read.
FEWEST_ROWS = 5
MAX_DRAWN = 12
MAX_NAME = 16


@dataclass(frozen=True)
class Group:
    """Rows with similar values in a column.

    Attributes:
        name: the column and the values.
        n_rows: their number.
        error: their mean error.
        spread: the standard error of the mean.
    """

    name: str
    n_rows: int
    error: float
    spread: float


def errors_by_group(
    errors: Array, features: Tensor, layout: Layout, columns: Sequence[Column]
) -> list[Group]:
    """The groups of each column, of at least `FEWEST_ROWS`, with the largest mean error first.

    Numbers and dates are split at their quartiles, others by their values.

    Args:
        errors: `[n_rows]`; rows whose error is not finite are left out.
        features: `[n_rows, width]`, as the columns encode them.
        layout: of the features.
        columns: with the texts of categories; empty if there are none.
    """
    finite = np.isfinite(errors)
    values = features.double().numpy()
    encoders = {column.name: column for column in columns}
    firsts = {encoded.column: encoded for encoded in reversed(layout.columns)}
    found = []
    for name, encoded in sorted(firsts.items(), key=lambda item: item[1].position):
        cells = values[:, encoded.position]
        for text, rows in _groups(encoded, cells, encoders.get(name)):
            chosen = errors[rows & finite]
            if len(chosen) >= FEWEST_ROWS:
                shown = f"{_short(name)} {text}"
                spread = float(chosen.std(ddof=1)) / len(chosen) ** 0.5
                found.append(Group(shown, len(chosen), float(chosen.mean()), spread))
    return sorted(found, key=lambda group: -group.error)


def plot_groups(groups: Sequence[Group], mean: float, what: str, rows: str) -> Figure:
    """Bars of the groups with the largest errors, and a line at the mean of all rows.

    Args:
        groups: at least one, the largest error first.
        mean: of all rows.
        what: the error is.
        rows: which are shown.
    """
    shown = list(groups[:MAX_DRAWN])
    figure, axes = figures.new_figure()
    places = range(len(shown))
    errors, spreads = [g.error for g in shown], [g.spread for g in shown]
    axes.barh(places, errors, xerr=spreads, height=0.7, color="C0", alpha=0.7, ecolor="0.3")
    axes.axvline(mean, color="black", linewidth=1, linestyle="--")
    names = [f"{figures.label(g.name, len(g.name))} ({g.n_rows})" for g in shown]
    axes.set_yticks(places, names, fontsize="small")
    axes.invert_yaxis()
    of = f": {len(shown)} of {len(groups)} groups" if len(groups) > len(shown) else " by group"
    # Not in a legend, which would hide the ends of long bars.
    told = f"{what}, with its standard error\ndashed: {mean:.4g}, the mean of all rows"
    axes.set(xlabel=told, xlim=(0, None))
    figure.suptitle(f"Largest errors{of}, {rows}", fontsize="large")
    return figure


def _groups(
    encoded: EncodedColumn, cells: Array, column: Column | None
) -> Iterator[tuple[str, Rows]]:
    if encoded.n_categories:
        yield from _of_categories(cells, column)
    elif encoded.kind == "boolean" or len(np.unique(cells)) <= QUANTILES:
        for value in np.unique(cells):
            yield f"= {value:.4g}", cells == value
    else:
        yield from _of_numbers(cells)


def _of_categories(cells: Array, column: Column | None) -> Iterator[tuple[str, Rows]]:
    texts = column.categories if isinstance(column, CategoryColumn) else ()
    for code in np.unique(cells):
        yield f"= {_text(int(code), texts)}", cells == code


def _text(code: int, texts: Sequence[str]) -> str:
    if code == OTHER:
        return "(rare)"
    return _short(texts[code - 1]) if code <= len(texts) else "(missing)"


def _of_numbers(cells: Array) -> Iterator[tuple[str, Rows]]:
    """Between quartiles; equal ones have one group."""
    edges = np.unique(np.quantile(cells, np.linspace(0, 1, QUANTILES + 1)))
    places = np.clip(np.searchsorted(edges, cells, side="right") - 1, 0, len(edges) - 2)
    for index in range(len(edges) - 1):
        yield f"{edges[index]:.3g} to {edges[index + 1]:.3g}", places == index


def _short(name: str) -> str:
    """The ends of a long name: columns often differ in their last letters."""
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}...{name[-half:]}"
