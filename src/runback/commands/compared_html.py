"""The page of `runback compare`: one HTML file that needs no network."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from runback.commands.compare import Comparison
from runback.commands.compared_text import labels, ranking_lines, table_lines
from runback.commands.show import RunDetails
from runback.errors import StorageError
from runback.tasks.figures import FEW_POINTS, drawable, label, new_figure

# Than the shortest curve, beside which it is not seen on a linear axis.
FAR_LONGER = 20

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ddd; padding: .3em 1em .3em 0; text-align: left;
         vertical-align: top; overflow-wrap: anywhere }
tbody th { white-space: nowrap }
thead th { border-bottom: 2px solid #888 }
div.wide { overflow-x: auto }
svg { max-width: 100%; height: auto }
"""


def write_page(found: Comparison, file: Path) -> None:
    """Writes a comparison as one page.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        file.write_text(as_html(found), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error


def as_html(found: Comparison) -> str:
    """A comparison as one page: what differs, the ranking, and the curves."""
    names = ", ".join(run.name for run in found.runs)
    head, *lines = table_lines(found)
    first, *ranked = ranking_lines(found)
    parts = [
        "<h1>Comparison of runs</h1>",
        _table(head, lines),
        f"<h2>Which is better?</h2><p>{escape(' '.join(first))}</p>",
        _table(["score", "run", "difference"], ranked) if ranked else "",
        f"<h2>Costs</h2>{_curves(found.runs)}",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(names)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = "\n".join(
        f"<tr><th>{escape(line[0])}</th>{''.join(f'<td>{escape(c)}</td>' for c in line[1:])}</tr>"
        for line in lines
    )
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    table = f"<table><thead><tr>{titles}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _curves(runs: Sequence[RunDetails]) -> str:
    """The costs of all runs in one SVG: val_cost as lines, cost as thin dotted ones.

    Both axes are logarithmic where a linear one would hide a run: much smaller costs, fewer epochs.
    """
    names, lowest = labels(runs), math.inf
    figure, axes = new_figure()
    figure.set_size_inches(9, 5.4)
    for index, run in enumerate(run for run in runs if run.costs):
        for metric, points in run.costs.items():
            drawn = drawable([value for _, value in points])
            style = ("-", 1.6) if metric == "val_cost" else (":", 1.1)
            axes.plot(
                [step for step, _ in points], drawn, color=f"C{index % 10}", linestyle=style[0],
                linewidth=style[1], marker="." if len(points) < FEW_POINTS else "",
                label=label(f"{names[run.run_id]} {metric}", 60),
            )  # fmt: skip
            lowest = min(lowest, *(value for value in drawn if math.isfinite(value)), math.inf)
    if not axes.lines:
        return "<p>No run has completed an epoch.</p>"
    if 0 < lowest < math.inf:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="cost")
    lengths = [max(step for step, _ in points) for run in runs for points in run.costs.values()]
    if max(lengths) > FAR_LONGER * max(1, min(lengths)):
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
