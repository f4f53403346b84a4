"""Scores and plots on rows that no training step saw."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from runback.models.blocks import in_blocks
from runback.training.optimizers import COSTS

Array = npt.NDArray[np.floating]
# Better is smaller, except for these.
HIGHER_IS_BETTER = frozenset({"r2"})
MAX_PLOTTED = 2000


def load_libraries() -> None:
    """Imports what scores and plots need, which takes more than a second, at a time of one's choice."""
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg", "sklearn.metrics"):
        importlib.import_module(name)


def predict_rows(module: nn.Module, features: Tensor) -> Tensor:
    """Predictions `[n, n_targets]` on the CPU, in eval mode; the module's mode is put back."""
    was_training = module.training
    module.eval()
    predicted = in_blocks(module, features)
    module.train(was_training)
    return predicted


def scores(predicted: Tensor, actual: Tensor, loss: str) -> dict[str, float]:
    """The run's own cost, RMSE, MAE, and R2, averaged over targets with equal weight.

    Args:
        predicted: `[n, n_targets]`.
        actual: `[n, n_targets]`.
        loss: mse, l1 or huber.

    Returns:
        `cost`, `rmse`, `mae` in the targets' units, and `r2`, which needs two rows and is left
        out for one.
    """
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error  # a second

    found = {"cost": COSTS[loss](predicted, actual).item()}
    p, a = predicted.double().numpy(), actual.double().numpy()
    if np.isfinite(p).all():
        found["rmse"] = float(root_mean_squared_error(a, p))
        found["mae"] = float(mean_absolute_error(a, p))
        if len(a) > 1:
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
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, linewidth=1.2)
    shown = [v for _, values in curves.values() for v in values if math.isfinite(v)]
    if shown and min(shown) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="cost")
    _save(figure, axes, path)


def plot_predictions(path: Path, actual: Array, predicted: Array, names: Sequence[str]) -> None:
    """Predicted over actual values of the held-out rows, with the diagonal; at most 2000 points."""
    figure, axes = _figure()
    step = max(1, len(actual) // MAX_PLOTTED)
    for column, name in enumerate(names):
        axes.scatter(actual[::step, column], predicted[::step, column], s=14, alpha=0.7, label=name)
    low, high = float(np.min(actual)), float(np.max(actual))
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--", label="exact")
    axes.set(xlabel="actual", ylabel="predicted")
    _save(figure, axes, path)


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
    figure.savefig(path)
