"""The text of `runback compare`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from runback.commands.compare import Comparison
from runback.commands.runs import SHORT_ID
from runback.commands.show import RunDetails
from runback.console.curves import BLOCKS, LETTERS, curve_lines
from runback.console.streams import can_write
from runback.console.text import aligned, number, plain

if TYPE_CHECKING:
    from runback.commands.rank import Ranked

MAX_CELL = 32
MAX_NAME = 24


def as_text(found: Comparison) -> str:
    """A comparison as lines of text: a column for each run, the ranking, and the curves."""
    table = [[line[0], *(_cut(text, MAX_CELL) for text in line[1:])] for line in table_lines(found)]
    (head,), *ranked = ranking_lines(found)
    ranking = [head, *(f"  {line}" for line in aligned(ranked))]
    parts = [aligned(table), ranking, _curves(found.runs)]
    return "\n\n".join("\n".join(plain(line).rstrip() for line in part) for part in parts if part)


def table_lines(found: Comparison) -> list[list[str]]:
    """What the runs are and what differs: a line for each property, a cell for each run."""
    runs = found.runs
    lines = [
        ["run", *(run.name for run in runs)],
        ["id", *(run.run_id[:SHORT_ID] for run in runs)],
        ["experiment", *(run.experiment for run in runs)],
        ["status", *(run.status for run in runs)],
        ["epochs", *(str(run.epochs or 0) for run in runs)],
        ["best_val_cost", *(number(run.best_val_cost) for run in runs)],
    ]
    names = dict.fromkeys(name for run in runs for name in run.scores)
    lines += [[f"test_{name}", *(number(run.scores.get(name)) for run in runs)] for name in names]
    lines += [[name, *texts] for name, texts in found.options.items()]
    for prefix in ("data", "code", "versions"):
        lines += [[f"{prefix}: {n}", *texts] for n, texts in getattr(found, prefix).items()]
    if not (found.options or found.data or found.code or found.versions):
        lines.append(["options, data, code and versions", *("equal" for _ in runs)])
    return [[line[0], *(text or "-" for text in line[1:])] for line in lines if any(line[1:])]


def ranking_lines(found: Comparison) -> list[list[str]]:
    """A sentence, then a line for each model: its score, its name, the difference from the best."""
    if found.ranking is None:
        return [[f"not ranked: {found.not_ranked}"]]
    ranking, names = found.ranking, labels(found.runs)
    head = (
        f"{ranking.metric} on the same {ranking.rows} rows; difference from the best, with its 95 % "
        "interval (paired bootstrap):"
    )
    return [[head], *(_ranked(model, names[model.run_id]) for model in ranking.models)]


def labels(runs: Sequence[RunDetails]) -> dict[str, str]:
    """A short name for each run, with a part of its ID, by its ID: what all begin with is left out."""
    words = [run.name.split() for run in runs]
    same = sum(1 for _ in takewhile(lambda equal: len({*equal}) == 1, zip(*words, strict=False)))
    names = [" ".join(own[same:] or own) for own in words]
    return {
        run.run_id: f"{_cut(name, MAX_NAME)} ({run.run_id[:SHORT_ID]})"
        for run, name in zip(runs, names, strict=True)
    }


def _ranked(model: Ranked, name: str) -> list[str]:
    if model.low is None or model.high is None:
        text = f"{model.difference:+.4g}" if model.difference else "best"
        return [f"{model.score:.6g}", name, text]
    span = f"{model.difference:+.4g} ({model.low:.4g} to {model.high:.4g})"
    verdict = "" if model.is_clear else ": no clear difference"
    return [f"{model.score:.6g}", name, span + verdict]


def _curves(runs: Sequence[RunDetails]) -> list[str]:
    """The curves of val_cost, or of cost if a run has no val_cost, on one scale."""
    trained = [run for run in runs if run.costs]
    metric = "val_cost" if all("val_cost" in run.costs for run in trained) else "cost"
    names = labels(runs)
    curves = {names[run.run_id]: run.costs[metric] for run in trained if metric in run.costs}
    lines = curve_lines(curves, BLOCKS if can_write(BLOCKS) else LETTERS)
    return [f"{metric}:", *lines] if lines else []


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
