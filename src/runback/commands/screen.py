"""The screen of `runback show`."""

from __future__ import annotations

import time

from runback.commands.runs import age
from runback.commands.show import RunDetails, Times
from runback.console.curves import BLOCKS, LETTERS, curve_lines
from runback.console.streams import can_write
from runback.console.text import aligned, number, plain

MAX_LINE = 400


def as_screen(run: RunDetails) -> str:
    """A run as lines of text."""
    facts = {
        "run": f"{run.run_id} in experiment {run.experiment}",
        "started": _started(run),
        "data": _data(run),
        "options": "  ".join(f"{name}={text}" for name, text in run.options.items()),
        "epochs": _epochs(run),
        "model": run.registered_as + "".join(f" @{alias}" for alias in run.aliases),
        "time": _time(run.times, (run.epochs or 0) - run.begins_after),
    }
    lines = [f"{run.name}  {run.status}"]
    lines += [f"{name:<9} {text}" for name, text in facts.items() if text]
    lines += [f"{'note':<9} {text}" for text in run.notes]
    parts = [lines, _scores(run), _curves(run), _next(run)]
    return "\n\n".join("\n".join(_plain(line) for line in part) for part in parts if part)


def _started(run: RunDetails) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_ms / 1000))
    return f"{at}, {age(time.time() - run.started_ms / 1000)} ago"


def _data(run: RunDetails) -> str:
    rows = ", ".join(f"{number} {part}" for part, number in run.rows.items())
    return f"{run.data}, rows: {rows}" if rows else run.data


def _epochs(run: RunDetails) -> str:
    planned = "" if run.planned_epochs is None else f" of {run.planned_epochs}"
    best = "" if run.best_epoch is None else f"; lowest val_cost at {run.best_epoch}"
    value = "" if run.best_val_cost is None else f": {run.best_val_cost:.6g}"
    return f"{run.epochs or 0}{planned}{best}{value if best else ''}"


def _time(times: Times, epochs: int) -> str:
    if times.before is None or times.epochs is None:
        return ""
    rate = f" ({(epochs - 1) / times.epochs:.3g}/s)" if epochs > 0 and times.epochs > 0.05 else ""
    parts = [
        f"{_seconds(times.before)} to the first epoch",
        f"{_seconds(times.epochs)} in epochs{rate}",
    ]
    parts += [f"{_seconds(times.paused)} paused"] if times.paused else []
    parts += [] if times.after is None else [f"{_seconds(times.after)} after the last epoch"]
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _scores(run: RunDetails) -> list[str]:
    """The test scores beside those of simple models, a line each."""
    if not run.scores:
        return []
    lines = [["test score", "this run", *run.baselines]]
    for name, value in run.scores.items():
        others = [found.get(name) for found in run.baselines.values()]
        lines.append([name, *map(number, (value, *others))])
    return aligned(lines)


def _curves(run: RunDetails) -> list[str]:
    return curve_lines(run.costs, BLOCKS if can_write(BLOCKS) else LETTERS)


def _next(run: RunDetails) -> list[str]:
    return ["next:", *(f"  {command}" for command in run.commands)] if run.commands else []


def _plain(text: str) -> str:
    """A line without characters that cannot be printed, and not longer than `MAX_LINE`."""
    shown = plain(text).rstrip()
    return shown if len(shown) <= MAX_LINE else f"{shown[:MAX_LINE]}..."
