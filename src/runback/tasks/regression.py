"""Regression: one numeric output for each target column."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from runback.errors import ConfigError, UsageError
from runback.tasks import baselines, figures, resampling
from runback.tasks.resampling import Resampled
from runback.tasks.task import Loss, Metric, Target, numbers_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Drawn = npt.NDArray[np.float64]
MAX_PLOTTED = 2000
MAX_COLUMNS = 8
# Of targets that are arrays, which have many times the numbers of a table's column.
MAX_NUMBERS = 1_000_000


class Regression:
    """See `runback.tasks.Task`; the output is the prediction itself, `[n, n_targets]` or arrays."""

    name = "regression"
    model_type = "regressor"
    has_classes = False
    losses: Mapping[str, Loss] = {
        "mse": functional.mse_loss,
        "l1": functional.l1_loss,
        "huber": functional.huber_loss,
    }
    metrics: Mapping[str, Metric] = {
        "cost": Metric(),
        "rmse": Metric(),
        "mae": Metric(),
        "r2": Metric(higher_is_better=True),
    }
    primary_metric = "rmse"

    def target_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the weights."""
        return dtype

    def n_outputs(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> int:
        """One output for each target, or for each number of an array."""
        return len(targets) * math.prod(shape)

    def output_shape(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> tuple[int, ...]:
        """That of the targets."""
        return tuple(shape) or (self.n_outputs(targets),)

    def balanced(self, loss: str, targets: Sequence[Target]) -> Loss:
        """Refused: numbers have no classes."""
        raise ConfigError(f"option class_weights: loss {loss} has no classes; use none")

    def adapted(self, function: Loss) -> Loss:
        """The function itself: it gets predictions and targets `[n, n_targets]`, or arrays."""
        return function

    def scores(
        self, output: Tensor, y: Tensor, loss: Loss, targets: Sequence[Target]
    ) -> dict[str, float]:
        """The run's cost, RMSE, MAE and R2, averaged over targets with equal weight.

        Args:
            output: `[n, n_targets]`, or arrays, whose numbers are scored as those of one target.
            y: likewise.
            loss: of the run.
            targets: the columns of `y`.

        Returns:
            `cost`, `rmse` and `mae` in the targets' units, and `r2`. `r2` is left out if a target
            is constant (no variance to explain; scikit-learn returns 0). If a prediction is not
            finite, only `cost`.
        """
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        scores = {"cost": loss(output, y).item()}
        output, y = numbers_of(output, y)
        p, a = output.double().numpy(), y.double().numpy()
        if np.isfinite(p).all():
            with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are valid results
                scores["rmse"] = float(root_mean_squared_error(a, p))
                scores["mae"] = float(mean_absolute_error(a, p))
                if (a != a[0]).any(axis=0).all():
                    scores["r2"] = float(r2_score(a, p))
        return scores

    def resampled(self, metric: str, output: Tensor, y: Tensor, loss: Loss) -> Resampled | None:
        """All metrics; see `runback.tasks.Task`."""
        if metric == "cost":
            return resampling.cost(loss, output, y)
        return resampling.of_numbers(metric, output, y)

    def baselines(
        self, x: Tensor, y: Tensor, rows: slice, x_test: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Tensor]]:
        """The mean, and least squares; of arrays the mean array alone."""
        yield "constant", torch.from_numpy(baselines.mean_of(y.double().numpy(), len(x_test)))
        if y.dim() > 2:
            return
        known, numbers, asked = (t.double().numpy() for t in (x, y[rows], x_test))
        yield "linear", torch.from_numpy(baselines.linear_numbers(known, numbers, asked))

    def decode(
        self, output: Tensor, targets: Sequence[Target], probabilities: bool = False
    ) -> pd.DataFrame:
        """The output, unchanged, in its dtype."""
        import pandas as pd

        return pd.DataFrame(output.numpy(), columns=self.columns(targets, probabilities))

    def columns(self, targets: Sequence[Target], probabilities: bool) -> list[str]:
        """The targets."""
        if probabilities:
            raise UsageError("option probabilities: the model predicts numbers, not classes")
        return [target.name for target in targets]

    def row_errors(self, output: Tensor, y: Tensor) -> tuple[str, Drawn]:
        """The absolute error; of several targets the mean, each in its standard deviations."""
        errors = figures.drawable((output - y).abs().double().numpy())
        if y.shape[1] == 1:
            return "absolute error", errors[:, 0]
        scales = y.double().std(0).clamp_min(np.finfo(np.float64).tiny).numpy()
        return "absolute error in standard deviations", (errors / scales).mean(axis=1)

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Figure]]:
        """Predicted over actual values with the diagonal, and the residuals: at most 8 targets.

        Of one target all rows are drawn, where they are many as a density; of several, at most 2000;
        of arrays at most 1,000,000 numbers.
        """
        output, y, what = *numbers_of(output, y), "test rows" if y.dim() == 2 else "test numbers"
        most = MAX_PLOTTED if len(targets) > 1 else MAX_NUMBERS if what != "test rows" else len(y)
        step = max(1, len(y) // max(1, most))
        actual = figures.drawable(y.numpy()[::step, :MAX_COLUMNS])
        predicted = figures.drawable(output.numpy()[::step, :MAX_COLUMNS])
        names = [target.name for target in targets[:MAX_COLUMNS]]
        rows = f"{len(y)} {what}" if step == 1 else f"{len(actual)} of {len(y)} {what}"
        if len(targets) > MAX_COLUMNS:
            rows += f", {MAX_COLUMNS} of {len(targets)} targets"
        yield "predictions", _predictions(actual, predicted, names, rows)
        yield "residuals", _residuals(actual, predicted, names, rows)

    def load_libraries(self) -> None:
        """Imports scikit-learn's metrics and matplotlib."""
        figures.load_libraries()
        for name in ("sklearn.metrics", *baselines.LIBRARIES):
            importlib.import_module(name)


def _predictions(actual: Drawn, predicted: Drawn, names: Sequence[str], rows: str) -> Figure:
    """Predicted over actual values `[n, n_targets]`, with the diagonal."""
    figure, axes = figures.new_figure()
    for column, name in enumerate(names):
        figures.scatter(axes, actual[:, column], predicted[:, column], name)
    shown = actual[np.isfinite(actual)]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 0.0)
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--", label="exact")
    axes.set(xlabel=f"actual{_of(names)}", ylabel=f"predicted{_of(names)}")
    axes.set_title(f"Predicted against actual, {rows}")
    return figure


def _residuals(actual: Drawn, predicted: Drawn, names: Sequence[str], rows: str) -> Figure:
    """Predicted minus actual over predicted values `[n, n_targets]`."""
    figure, axes = figures.new_figure()
    for column, name in enumerate(names):
        errors = figures.drawable(predicted[:, column] - actual[:, column])
        figures.scatter(axes, predicted[:, column], errors, name)
    axes.axhline(0.0, color="0.5", linewidth=1, linestyle="--", label="exact")
    axes.set(xlabel=f"predicted{_of(names)}", ylabel="predicted - actual")
    axes.set_title(f"Residuals, {rows}")
    return figure


def _of(names: Sequence[str]) -> str:
    return f" {figures.label(names[0])}" if len(names) == 1 else ""
