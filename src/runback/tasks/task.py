"""The interface of a task: losses, metrics, scores, decoding and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second
    from matplotlib.figure import Figure

    from runback.tasks.resampling import Resampled

# Takes output and targets; returns a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


class Target(Protocol):
    """A target column.

    Attributes:
        name: of the column.
        classes: in the order of their codes; empty for numbers.
        counts: training rows of each class; empty for numbers.
    """

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Sequence[str | bool | int]: ...
    @property
    def counts(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class NumberTarget:
    """A target column of numbers; see `Target`."""

    name: str
    classes: tuple[str | bool | int, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Metric:
    """The direction of a score."""

    higher_is_better: bool = False

    def is_better(self, new: float, old: float) -> bool:
        """Whether `new` is better than `old`; NaN is worse than any number."""
        if math.isnan(new):
            return False
        return math.isnan(old) or (new > old if self.higher_is_better else new < old)


class Task(Protocol):
    """A kind of learning, which defines the training loss and the scores.

    Attributes:
        name: stored in the model's spec.
        model_type: MLflow's name for models of this task.
        has_classes: whether the targets are classes, not numbers.
        losses: the values of the option `loss`; each maps output and targets to a scalar.
        metrics: the possible keys of `scores`, in display order.
        primary_metric: the default metric of a promotion.
    """

    @property
    def name(self) -> str: ...
    @property
    def model_type(self) -> str: ...
    @property
    def has_classes(self) -> bool: ...
    @property
    def losses(self) -> Mapping[str, Loss]: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def primary_metric(self) -> str: ...

    def target_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the targets `[n, n_targets]` for weights of `dtype`."""

    def n_outputs(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> int:
        """What a module's class gets as `n_targets`: the numbers of an output, or the classes.

        Args:
            targets: the columns.
            shape: of the only target, if it is an array; otherwise empty.
        """

    def output_shape(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> tuple[int, ...]:
        """The shape of the module's output for a row; arguments as in `n_outputs`."""

    def balanced(self, loss: str, targets: Sequence[Target]) -> Loss:
        """The loss with classes weighted by the inverse of their counts.

        Raises:
            ConfigError: the targets are numbers.
        """

    def adapted(self, function: Loss) -> Loss:
        """A user's loss or metric, which gets the targets as torch's losses of this task do."""

    def scores(
        self, output: Tensor, y: Tensor, loss: Loss, targets: Sequence[Target]
    ) -> dict[str, float]:
        """The metrics defined for these rows, including `cost` (the run's loss).

        Args:
            output: of the module, `[n, *output_shape]`, on the CPU.
            y: `[n, n_targets]`, or arrays `[n, *shape]`, whose numbers all count alike; on the CPU.
            loss: of the run.
            targets: the columns of `y`.
        """

    def resampled(self, metric: str, output: Tensor, y: Tensor, loss: Loss) -> Resampled | None:
        """A metric of many samples of the rows; None if it is not known for this loss.

        Arguments as in `scores`.
        """

    def baselines(
        self, x: Tensor, y: Tensor, rows: slice, x_test: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields the names and outputs `[n_test, n_outputs]` of simple models.

        They are "constant" (the mean, or the shares of the classes) and "linear" (scikit-learn's
        linear or logistic regression, on at most `baselines.MAX_ROWS` evenly spaced rows). Arrays
        have only the first, for numbers the mean array.

        Args:
            x: the training rows on which "linear" is fitted, `[n_fitted, n_features]`.
            y: the targets of all training rows, `[n_train, n_targets]` or `[n_train, *shape]`.
            rows: of `x` among all training rows, from `baselines.fitted_rows`.
            x_test: the test rows `[n_test, n_features]`.
            targets: the columns of `y`.
        """

    def decode(
        self, output: Tensor, targets: Sequence[Target], probabilities: bool = False
    ) -> pd.DataFrame:
        """Converts an output `[n, n_outputs]` to predictions, one column for each target.

        Args:
            output: of the module, on the CPU.
            targets: the predicted columns.
            probabilities: adds a column `TARGET=CLASS` for each class.

        Raises:
            UsageError: `probabilities` for numbers.
        """

    def columns(self, targets: Sequence[Target], probabilities: bool) -> list[str]:
        """The columns of `decode`.

        Raises:
            UsageError: `probabilities` for numbers.
        """

    def row_errors(self, output: Tensor, y: Tensor) -> tuple[str, npt.NDArray[np.float64]]:
        """What is wrong with each row: the name of the error, and its values `[n]`."""

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Figure]]:
        """Yields (file stem, figure) for scored rows; arguments as in `scores`."""

    def load_libraries(self) -> None:
        """Imports the libraries for `scores` and `plots`."""


def numbers_of(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Arrays as rows with one number each, and columns as they are.

    Args:
        output: as in `Task.scores`.
        y: likewise.

    Returns:
        For arrays, `[n_numbers, 1]` or of classes `[n_numbers, n_classes]`, and `[n_numbers, 1]`.
    """
    if y.dim() == 2:
        return output, y
    return output_of_numbers(output, y.shape[1:]), y.reshape(-1, 1)


def output_of_numbers(output: Tensor, shape: Sequence[int]) -> Tensor:
    """The output for arrays of a shape, a row for each number: `[n_numbers, 1 or n_classes]`."""
    width = output.shape[1] if output.dim() > len(shape) + 1 else 1
    return output.reshape(len(output), width, math.prod(shape)).movedim(1, 2).reshape(-1, width)
