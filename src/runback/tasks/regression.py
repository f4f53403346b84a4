"""Scores and plots on rows that no training step saw."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from runback.model.batched_forward import batched_forward
from runback.training.optimizers import COSTS

Array = npt.NDArray[np.floating]
# Better is smaller, except for these.
HIGHER_IS_BETTER = frozenset({"r2"})
MAX_PLOTTED = 2000
MAX_COLUMNS = 8
MAX_LABEL = 30
# matplotlib's own arithmetic overflows far below float64's largest numbers.
MAX_DRAWN = 1e100
FEW_POINTS = 20


def load_libraries() -> None:
    """Imports what scores and plots need, which takes more than a second, at a time of one's choice."""
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg", "sklearn.metrics"):
        importlib.import_module(name)


def predict_rows(module: nn.Module, features: Tensor) -> Tensor:
    """Predictions `[n, n_targets]` on the CPU, in eval mode; the module's mode is put back."""
    was_training = module.training
    module.eval()
    predicted = batched_forward(module, features)
    module.train(was_training)
    return predicted


def scores(predicted: Tensor, actual: Tensor, loss: str) -> dict[str, float]:
    """The run's own cost, RMSE, MAE, and R2, averaged over targets with equal weight.

    Args:
        predicted: `[n, n_targets]`.
        actual: `[n, n_targets]`.
        loss: mse, l1 or huber.

    Returns:
        `cost`, `rmse`, `mae` in the targets' units, and `r2`, which is left out where a target has
        the same value in all rows: there is no variance to explain (scikit-learn would say 0).
    """
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error  # a second

    found = {"cost": COSTS[loss](predicted, actual).item()}
    p, a = predicted.double().numpy(), actual.double().numpy()
    if np.isfinite(p).all():
        with np.errstate(over="ignore", invalid="ignore"):  # infinite or NaN is the true answer
            found["rmse"] = float(root_mean_squared_error(a, p))
            found["mae"] = float(mean_absolute_error(a, p))
            if (a != a[0]).any(axis=0).all():
                found["r2"] = float(r2_score(a, p))
    return found


def is_better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old` on a metric, by the metric's own direction; NaN beats nothing."""
    if math.isnan(new):
        return False
    return math.isnan(old) or (new > old if metric in HIGHER_IS_BETTER else new < old)


def plot_costs(path: Path, curves: dict[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Cost curves over epochs, on a logarithmic scale where all values are positive."""
    figure, axes = _figure()
    lowest = math.inf
    for name, (steps, values) in curves.items():
        drawn = _drawable(values)
        marker = "." if len(drawn) < FEW_POINTS else ""  # one point alone is no line
        axes.plot(steps, drawn, label=_label(name), linewidth=1.2, marker=marker)
        lowest = min(lowest, *drawn[np.isfinite(drawn)], math.inf)
    if MAX_DRAWN > lowest > 1 / MAX_DRAWN:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="cost")
    _save(figure, axes, path)


def plot_predictions(path: Path, actual: Array, predicted: Array, names: Sequence[str]) -> None:
    """Predicted over actual values of the held-out rows, with the diagonal.

    At most 2000 rows and the first 8 targets are drawn.
    """
    figure, axes = _figure()
    step = max(1, len(actual) // MAX_PLOTTED)
    x, y = _drawable(actual[::step]), _drawable(predicted[::step])
    for column, name in enumerate(names[:MAX_COLUMNS]):
        axes.scatter(x[:, column], y[:, column], s=14, alpha=0.7, label=_label(name))
    shown = x[:, :MAX_COLUMNS][np.isfinite(x[:, :MAX_COLUMNS])]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 0.0)
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--", label="exact")
    axes.set(xlabel="actual", ylabel="predicted")
    _save(figure, axes, path)


def _drawable(values: Sequence[float] | Array) -> Array:
    """The values as float64, with NaN, which leaves a gap, for what cannot be drawn."""
    drawn = np.array(values, dtype=np.float64)
    drawn[~(np.abs(drawn) <= MAX_DRAWN)] = np.nan
    return drawn


def _label(name: str) -> str:
    """A column's name as plain text: `$` would begin a formula, `_` hide it from the legend."""
    shown = name if len(name) <= MAX_LABEL else name[:MAX_LABEL] + "..."
    return (" " if name.startswith("_") else "") + shown.replace("$", r"\$")


def _figure() -> tuple[Any, Any]:
    """A figure without pyplot, which would look for a display and keep state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # of letters that its font lacks; nobody can do anything
        warnings.simplefilter("ignore")
        figure.savefig(path)
