"""The plots of a training: costs, and of the test rows those of the task, of groups, and of a curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from runback.commands.run_name import run_name
from runback.model.batched_forward import predict_rows
from runback.open_run.run import Run
from runback.tasks.figures import plot_costs, plot_fit, save_figure
from runback.tasks.groups import errors_by_group, plot_groups
from runback.training.setup import TrainingSetup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CURVE_POINTS = 2000
# Of the test rows whose errors are grouped by each column: the end of a training must not wait.
MAX_CELLS, MAX_COLUMNS = 1_000_000, 300
# Of a model of one feature, and the targets that have a plot of it.
CURVE_POINTS, MAX_FITS = 300, 4


def plot(run: Run, setup: TrainingSetup, tested: tuple[Tensor, Tensor] | None) -> None:
    """Cost curves, and the task's plots of the test rows."""
    run.journal.flush()
    folder = run.folder.outbox / "plots"
    curves = {name: _curve(run, name) for name in ("cost", "val_cost")}
    best, rates = setup.state.best, run.journal.points("lr")
    plot_costs(
        folder / "cost.png",
        {name: c for name, c in curves.items() if c[0]},
        title=run_name(setup.config),
        best=None if best is None else (best.epoch, best.val_cost),
        rates=([p.step for p in rates], [p.value for p in rates]),
        resumes=[epoch for epoch in run.resumes if epoch < setup.state.epoch],
    )
    run.post_file(folder / "cost.png", "plots")
    if tested is None:
        return
    for stem, figure in _plots(setup, *tested):
        save_figure(figure, folder / f"{stem}.png")
        run.post_file(folder / f"{stem}.png", "plots")


def _plots(setup: TrainingSetup, output: Tensor, y: Tensor) -> Iterator[tuple[str, Figure]]:
    """Yields (file stem, figure) of the test rows: those of the task, of groups, and of a curve."""
    yield from setup.task.plots(output, y, setup.built.spec.target_columns)
    layout, features = setup.built.spec.layout, setup.table.features
    if setup.table.sample_shape or setup.table.target_shape or layout.width > MAX_COLUMNS:
        return
    step = max(1, -(-len(y) * layout.width // MAX_CELLS))
    what, errors = setup.task.row_errors(output[::step], y[::step])
    test = features.index_select(0, setup.split.test[::step])
    groups = errors_by_group(errors, test, layout, setup.table.encoders)
    rows = f"{len(y)} test rows" if step == 1 else f"{len(errors)} of {len(y)} test rows"
    if groups:
        yield "errors", plot_groups(groups, float(np.nanmean(errors)), what, rows)
    is_number = [column.kind for column in layout.columns] == ["number"]
    if is_number and not setup.task.has_classes:
        yield from _fits(setup)


def _fits(setup: TrainingSetup) -> Iterator[tuple[str, Figure]]:
    """The model of one feature as a curve, for each of the first targets."""
    table, split = setup.table, setup.split
    x = table.features[:, 0]
    known = x.index_select(0, split.train)
    grid = torch.linspace(float(known.min()), float(known.max()), CURVE_POINTS, dtype=x.dtype)
    fitted = predict_rows(setup.state.model, grid[:, None]).double().numpy()
    parts = {"training": split.train, "test": split.test}
    for number, name in enumerate(table.columns.targets[:MAX_FITS]):
        points = {
            part: (x[rows].numpy(), table.targets[rows, number].numpy())
            for part, rows in parts.items()
        }
        names = table.columns.features[0], name
        stem = "fit" if len(table.columns.targets) == 1 else f"fit-{number + 1}"
        yield stem, plot_fit(points, (grid.numpy(), fitted[:, number]), names)


def _curve(run: Run, name: str) -> tuple[list[int], list[float]]:
    points = run.journal.points(name)
    points = points[:: max(1, len(points) // MAX_CURVE_POINTS)]
    return [p.step for p in points], [p.value for p in points]
