"""Classification: one target column, an output (logit) for each of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from runback.errors import ConfigError
from runback.tasks import baselines, class_scores, resampling
from runback.tasks.class_scores import Codes, Probabilities
from runback.tasks.resampling import Resampled
from runback.tasks.task import Loss, Metric, Target, numbers_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def _cross_entropy(output: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    return functional.cross_entropy(output, _codes(y), weight)


def _codes(y: Tensor) -> Tensor:
    """The codes as torch's losses take them: `[n]` of a column, arrays as they are."""
    return y[:, 0] if y.dim() == 2 else y


class Classification:
    """See `runback.tasks.Task`; the output `[n, n_classes]` are logits, `y` codes `[n, 1]`.

    For arrays of classes, such as the classes of an image's pixels, the output is `[n, n_classes,
    *shape]` and `y` `[n, *shape]`.
    """

    name = "classification"
    model_type = "classifier"
    has_classes = True
    losses: Mapping[str, Loss] = {"cross_entropy": _cross_entropy}
    metrics: Mapping[str, Metric] = class_scores.METRICS
    primary_metric = class_scores.PRIMARY_METRIC

    def target_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Codes are int64, whatever the weights are."""
        return torch.int64

    def n_outputs(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> int:
        """The number of classes.

        Raises:
            ConfigError: more than one target.
        """
        return len(_only(targets).classes)

    def output_shape(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> tuple[int, ...]:
        """The classes, for arrays in front of their shape."""
        return (self.n_outputs(targets), *shape)

    def balanced(self, loss: str, targets: Sequence[Target]) -> Loss:
        """Cross entropy with class weights `n_rows / (n_classes * count)`, as in scikit-learn."""
        counts = torch.tensor(_only(targets).counts, dtype=torch.float64)
        weights = counts.sum() / (len(counts) * counts)

        def weighted(output: Tensor, y: Tensor) -> Tensor:
            return _cross_entropy(output, y, weights.to(output.device, output.dtype))

        return weighted

    def adapted(self, function: Loss) -> Loss:
        """A function of logits `[n, n_classes]` and codes `[n]`; arrays as they are."""
        return lambda output, y: function(output, _codes(y))

    def scores(
        self, output: Tensor, y: Tensor, loss: Loss, targets: Sequence[Target]
    ) -> dict[str, float]:
        """The run's cost and `class_scores`; only `cost` if an output is not finite."""
        scores = {"cost": loss(output, y).item()}
        output, y = numbers_of(output, y)
        if bool(output.isfinite().all()):
            scores |= class_scores.class_scores(_probabilities(output), y[:, 0].numpy())
        return scores

    def resampled(self, metric: str, output: Tensor, y: Tensor, loss: Loss) -> Resampled | None:
        """All metrics of few classes; the cost only without class weights, where it is a mean.

        Arrays have the cost alone: a sample of rows is not one of their numbers.
        """
        if metric == "cost":
            return resampling.cost(loss, output, y) if loss is _cross_entropy else None
        if y.dim() > 2:
            return None
        return resampling.of_classes(metric, [_probabilities(output)], [y[:, 0].numpy()])

    def baselines(
        self, x: Tensor, y: Tensor, rows: slice, x_test: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Tensor]]:
        """The shares of the classes, and a logistic regression; of arrays the shares alone."""
        n_classes = len(_only(targets).classes)
        shares = baselines.shares_of(y.flatten().numpy(), len(x_test), n_classes)
        logits = torch.from_numpy(np.log(shares))
        if y.dim() > 2:
            shape = y.shape[1:]
            yield (
                "constant",
                logits.reshape(*logits.shape, *[1] * len(shape)).expand(-1, -1, *shape),
            )
            return
        yield "constant", logits
        known, asked = x.double().numpy(), x_test.double().numpy()
        fitted = baselines.linear_probabilities(known, y[rows, 0].numpy(), asked, n_classes)
        yield "linear", torch.from_numpy(np.log(fitted))

    def decode(
        self, output: Tensor, targets: Sequence[Target], probabilities: bool = False
    ) -> pd.DataFrame:
        """The class with the largest output; the first of equal ones."""
        return labels_of([(_only(targets), _probabilities(output))], probabilities)

    def columns(self, targets: Sequence[Target], probabilities: bool) -> list[str]:
        """The targets and, where asked for, the classes of each."""
        return columns_of(targets, probabilities)

    def row_errors(self, output: Tensor, y: Tensor) -> tuple[str, Probabilities]:
        """1 for a wrong prediction, otherwise 0."""
        shares, codes = _probabilities(output), y[:, 0].numpy()
        return "share of wrong predictions", class_scores.wrong_rows([shares], [codes])

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Figure]]:
        """Confusion matrix, ROC curves and calibration."""
        output, y = numbers_of(output, y)
        labels = [str(label) for label in _only(targets).classes]
        yield from class_scores.class_plots(_probabilities(output), y[:, 0].numpy(), labels)

    def load_libraries(self) -> None:
        """Imports scikit-learn's metrics and matplotlib."""
        class_scores.load_libraries()


def columns_of(targets: Sequence[Target], probabilities: bool) -> list[str]:
    """The names of the columns of labels and, where asked for, of probabilities."""
    names: list[str] = []
    for target in targets:
        names.append(target.name)
        names += [f"{target.name}={label}" for label in target.classes if probabilities]
    return names


def labels_of(
    predicted: Iterable[tuple[Target, Probabilities]], probabilities: bool
) -> pd.DataFrame:
    """The likeliest class of each target and, where asked for, the probabilities of all."""
    import pandas as pd

    columns = {}
    for target, shares in predicted:
        columns[target.name] = _classes(target, shares.argmax(axis=1))
        if probabilities:
            for index, label in enumerate(target.classes):
                columns[f"{target.name}={label}"] = shares[:, index]
    return pd.DataFrame(columns)


def _classes(target: Target, codes: Codes) -> npt.NDArray[Any]:
    """The classes of codes `[n]`: bool, int64 or object (text)."""
    kind = {bool: np.bool_, int: np.int64}.get(type(target.classes[0]), np.object_)
    labels: npt.NDArray[Any] = np.array(target.classes, dtype=kind)
    return labels[codes]


def _only(targets: Sequence[Target]) -> Target:
    if len(targets) != 1:
        raise ConfigError(
            f"option loss: cross_entropy has one target, not {len(targets)}; several yes/no targets "
            "are trained with bce"
        )
    return targets[0]


def _probabilities(output: Tensor) -> Probabilities:
    """Softmax in float64."""
    return output.double().softmax(1).numpy()
