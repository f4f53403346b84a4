"""Shared by the benchmarks: options, alternating rounds, medians, sections of RESULTS.md, plots."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "RESULTS.md"
INTRODUCTION = """# Results

Written by the benchmarks themselves: `make bench` runs all, `python -m benchmarks.NAME` one. Peers
are measured in the same run, in turn with ours, each in a process of its own; figures are medians.
Ratios of neighbours in one table can be trusted further than absolute times.
"""
# Set on the machine where other work ran at the same time, and shown with the figures.
NOTE = os.environ.get("RUNBACK_BENCH_NOTE", "")
QUICK_NOTE = (
    "A quick run, to see that all works: fewer rounds and smaller sizes, no figures to quote."
)
SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip
WIDTH = 100
# Beginnings of lines that Markdown reads as something else than a paragraph.
AS_IT_IS = ("|", "- ", "![", "#", ">")
OURS, PEER = "#1f6feb", "#9aa4b1"


@dataclass(frozen=True)
class Aim:
    """A target value of a benchmark."""

    text: str
    value: float
    limit: float
    unit: str = "x"
    at_least: bool = False

    def line(self) -> str:
        """The aim, what was measured, and whether it was met."""
        hit = self.value >= self.limit if self.at_least else self.value <= self.limit
        sign = "at least" if self.at_least else "at most"
        measured = f"{self.value:.3g}{_unit(self.unit)}"
        word = "met" if hit else "**missed**"
        return (
            f"- {self.text}: {sign} {self.limit:g}{_unit(self.unit)}; measured {measured}: {word}"
        )


def options(description: str | None, full: str = "") -> argparse.Namespace:
    """The options of a benchmark: `quick`, and `full` where it says what that adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE[:-1])
    if full:
        parser.add_argument("--full", action="store_true", help=full)
    return parser.parse_args()


def in_turn(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Runs every case once per round, so that other load affects all cases alike."""
    found: dict[str, list[Any]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            found[name].append(case())
            print(f"  round {number + 1}/{rounds}  {name}", file=sys.stderr, flush=True)
    return found


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median(a / b for a, b in zip(ours, theirs, strict=False))


def child(module: str, *arguments: str, folder: Path = ROOT, **env: str) -> dict[str, Any]:
    """Runs `python -m module` and returns the JSON object in the last line of its output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder, env={**environment(), **env}, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def environment(folder: Path | None = None) -> dict[str, str]:
    """The environment of what is measured: this source tree, and a store in `folder`.

    Telemetry and update checks of the peers are disabled, as they would be part of their time.
    """
    store = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "RUNBACK_HOME": f"{folder}/home",
    }
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return {**os.environ, **SILENT, **(store if folder else {}), "PYTHONPATH": paths}


def empty_store(folder: Path) -> None:
    """Creates the database of `environment(folder)` beforehand: seconds, once in a store's life."""
    script = "import mlflow; mlflow.MlflowClient().search_experiments()"
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(folder), check=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, the first column to the left and numbers to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def publish(name: str, title: str, body: Sequence[str], packages: Sequence[str] = ()) -> None:
    """Prints a section and puts it in RESULTS.md in place of the section's older version.

    Args:
        name: the benchmark's module.
        title: the section's heading.
        body: paragraphs, each one string whatever its length, and the lines of all else.
        packages: those whose versions matter beside torch's and mlflow's.
    """
    command = " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]])
    notes = [NOTE, QUICK_NOTE if "--quick" in sys.argv else ""]
    about = " ".join(filter(None, [_facts(packages), *notes]))
    text = "\n".join([f"## {title}", "", f"`{command}`", "", *wrapped([about, "", *body])])
    print(text, flush=True)
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else INTRODUCTION
    first, *sections = old.split("\n## ")
    kept = {section.splitlines()[0]: section.rstrip() for section in sections}
    kept[title] = text.removeprefix("## ").rstrip()
    parts = [first.rstrip(), *(kept[key] for key in sorted(kept))]
    RESULTS.write_text("\n\n## ".join(parts) + "\n", encoding="utf-8")


def wrapped(body: Iterable[str]) -> Iterator[str]:
    """Paragraphs in lines of at most `WIDTH`; tables, lists, images and code as they are."""
    fenced = False
    for line in body:
        fence = line.startswith("```")
        fenced ^= fence
        if not line or fence or fenced or line.startswith(AS_IT_IS):
            yield line
        else:
            yield from textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def bars(
    file: str,
    title: str,
    values: dict[str, float],
    axis: str,
    *,
    log: bool = True,
    form: str = "{:.3g}",
) -> None:
    """Horizontal bars, shortest first; those whose name begins with "runback" stand out."""
    figure, axes = _figure(len(values) * 0.42 + 1.5)
    names = sorted(values, key=lambda name: values[name], reverse=True)
    colors = [OURS if name.startswith("runback") else PEER for name in names]
    drawn = axes.barh(names, [values[name] for name in names], color=colors, height=0.66)
    axes.bar_label(drawn, [form.format(values[name]) for name in names], padding=4, fontsize=9)
    high = max(values.values())
    if log:
        axes.set_xscale("log")
        axes.set_xlim(10 ** math.floor(math.log10(min(values.values()) * 0.6)), high * 3)
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(0, high * 1.2)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(axis + (" (logarithmic)" if log else ""))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    figure.savefig(HERE / file)


def curves(
    file: str, titles: Sequence[str], lines: Sequence[tuple[Sequence[float], Sequence[float]]],
    axes_names: Sequence[tuple[str, str]],
) -> None:  # fmt: skip
    """One panel for each line, logarithmic to the right, from zero upwards."""
    figure, panels = _figure(3.6, columns=len(lines))
    for axes, title, (x, y), (x_name, y_name) in zip(
        panels, titles, lines, axes_names, strict=True
    ):
        axes.plot(x, y, marker="o", color=OURS, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_ylim(0, max(y) * 1.25)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set(xlabel=x_name, ylabel=y_name)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / file)


def _figure(height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _facts(packages: Sequence[str]) -> str:
    """The date, the machine and the versions of the installed packages."""
    facts = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} cores ({_processor()}), {_accelerator()}",
        f"Python {platform.python_version()}",
    ]
    for package in ("torch", "mlflow", *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(facts) + "."


def _unit(unit: str) -> str:
    return unit if unit in ("x", "%") else f" {unit}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def memory(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measured(read: Callable[[], object]) -> dict[str, float]:
    """Seconds of a call, and the peak of memory in it, in MiB, over that before."""
    base, begin = memory("VmRSS"), time.perf_counter()
    kept = read()
    seconds = time.perf_counter() - begin
    del kept
    return {"seconds": seconds, "peak": memory("VmHWM") - base}


def device() -> str:
    """The device of the benchmarks: the GPU if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name(0) if device() == "cuda" else "no GPU"
