"""Regression: one numeric output for each target column."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.nn import functional

from runback.tasks import figures
from runback.tasks.task import Loss, Metric

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_PLOTTED = 2000
MAX_COLUMNS = 8


class Regression:
    """See `runback.tasks.Task`; the output `[n, n_targets]` is the prediction itself."""

    name = "regression"
    model_type = "regressor"
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

    def n_outputs(self, targets: Sequence[str]) -> int:
        """One output for each target."""
        return len(targets)

    def scores(self, output: Tensor, y: Tensor, loss: str) -> dict[str, float]:
        """The run's cost, RMSE, MAE and R2, averaged over targets with equal weight.

        Args:
            output: `[n, n_targets]`.
            y: `[n, n_targets]`.
            loss: mse, l1 or huber.

        Returns:
            `cost`, `rmse` and `mae` in the targets' units, and `r2`. `r2` is left out if a target
            is constant (no variance to explain; scikit-learn returns 0). If a prediction is not
            finite, only `cost`.
        """
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        scores = {"cost": self.losses[loss](output, y).item()}
        p, a = output.double().numpy(), y.double().numpy()
        if np.isfinite(p).all():
            with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are valid results
                scores["rmse"] = float(root_mean_squared_error(a, p))
                scores["mae"] = float(mean_absolute_error(a, p))
                if (a != a[0]).any(axis=0).all():
                    scores["r2"] = float(r2_score(a, p))
        return scores

    def decode(self, output: Tensor, targets: Sequence[str]) -> pd.DataFrame:
        """The output, unchanged, in its dtype."""
        import pandas as pd

        return pd.DataFrame(output.numpy(), columns=list(targets))

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[str]
    ) -> Iterator[tuple[str, Figure]]:
        """Predicted over actual values with the diagonal: at most 2000 rows and 8 targets."""
        figure, axes = figures.new_figure()
        step = max(1, len(y) // MAX_PLOTTED)
        actual = figures.drawable(y.numpy()[::step])
        predicted = figures.drawable(output.numpy()[::step])
        for column, name in enumerate(targets[:MAX_COLUMNS]):
            x, height = actual[:, column], predicted[:, column]
            axes.scatter(x, height, s=14, alpha=0.7, label=figures.label(name))
        shown = actual[:, :MAX_COLUMNS][np.isfinite(actual[:, :MAX_COLUMNS])]
        low, high = (shown.min(), shown.max()) if shown.size else (0.0, 0.0)
        axes.plot([low, high], [low, high], color="0.5", linewidth=1, linestyle="--", label="exact")
        axes.set(xlabel="actual", ylabel="predicted")
        yield "predictions", figure

    def load_libraries(self) -> None:
        """Imports scikit-learn's metrics and matplotlib."""
        figures.load_libraries()
        importlib.import_module("sklearn.metrics")
