"""Scores of many samples of the same rows at once, for a bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runback.tasks.task import Loss

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
# A variance below this share of the mean square is that of equal values.
SMALLEST_SHARE = 1e-12
MAX_CLASSES = 50


class Resampled(Protocol):
    """A score of samples of rows."""

    def __len__(self) -> int:
        """The number of rows, or of groups of rows."""

    def limited(self, most: int) -> Resampled:
        """The score of at most so many rows or groups; the same ones for every score of the rows."""

    def scores(self, counts: Array) -> Array:
        """The scores `[n_samples]` of samples; NaN where it is not defined.

        Args:
            counts: how often a sample has each row, `[n_samples, n]`.
        """


@dataclass(frozen=True)
class Sums:
    """A score which is a function of sums over the rows, averaged over targets with equal weight.

    Attributes:
        rows: `[n_rows, n_targets, k]`; the last of k is 1.
        of_target: from the sums `[..., k]` of a target to its score `[...]`.
    """

    rows: Array
    of_target: Callable[[Array], Array]

    def __len__(self) -> int:
        """See `Resampled`."""
        return len(self.rows)

    def limited(self, most: int) -> Resampled:
        """With random groups of almost equal size: their sums vary as those of the rows do."""
        n_rows = len(self)
        if n_rows <= most:
            return self
        order = np.random.default_rng(0).permutation(n_rows)
        starts = np.linspace(0, n_rows, most, endpoint=False).astype(np.int64)
        return replace(self, rows=np.add.reduceat(self.rows[order], starts, axis=0))

    def scores(self, counts: Array) -> Array:
        """See `Resampled`."""
        sums = np.tensordot(counts, self.rows, axes=1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scores: Array = self.of_target(sums).mean(-1)
        return scores


@dataclass(frozen=True)
class Ranks:
    """The area under the ROC curve, averaged over classes, each against the rest.

    Attributes:
        values: the predictions for each class, `[n_classes, n_rows]`.
        members: whether a row is of the class, likewise.
    """

    values: Array
    members: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """See `Resampled`."""
        return int(self.values.shape[1])

    def limited(self, most: int) -> Resampled:
        """With evenly spaced rows, which makes intervals wider: an area is not made of groups."""
        kept = np.linspace(0, len(self) - 1, min(len(self), most)).astype(np.int64)
        return Ranks(self.values[:, kept], self.members[:, kept])

    def scores(self, counts: Array) -> Array:
        """See `Resampled`."""
        pairs = zip(self.values, self.members, strict=True)
        scores: Array = np.mean([_area(*pair, counts) for pair in pairs], axis=0)
        return scores


def _area(values: Array, members: npt.NDArray[np.bool_], counts: Array) -> Array:
    """The share of pairs of a member and another row in which the member's value is larger."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # of equal values
    inside, outside = (
        np.add.reduceat((counts * chosen)[:, order], starts, axis=1)
        for chosen in (members, ~members)
    )
    smaller = outside.cumsum(axis=1) - outside / 2
    pairs = inside.sum(axis=1) * outside.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Array = (inside * smaller).sum(axis=1) / pairs
    return area


def cost(loss: Loss, output: Tensor, y: Tensor) -> Resampled:
    """A loss which is the mean over the rows."""
    costs = torch.vmap(loss)(output.unsqueeze(1), y.unsqueeze(1))
    return Sums(_joined([costs.double().numpy()[:, None]]), _mean(0))


def of_numbers(metric: str, output: Tensor, y: Tensor) -> Resampled:
    """The metrics of numbers, `output` and `y` `[n, n_targets]`, or arrays `[n, *shape]`.

    A row of arrays has the means over its numbers, whose sums over rows have the same ratios.
    """
    width = y.shape[1] if y.dim() == 2 else 1
    predicted, actual = (t.double().reshape(len(y), width, -1).numpy() for t in (output, y))
    with np.errstate(over="ignore", invalid="ignore"):
        errors = predicted - actual
        centered = actual - actual.mean(axis=(0, 2), keepdims=True)
        parts = [errors**2, np.abs(errors), centered**2, centered]
        rows = _joined([part.mean(axis=2) for part in parts])
    return Sums(rows, {"rmse": _rmse, "mae": _mean(1), "r2": _r2}[metric])


def of_classes(
    metric: str, probabilities: Sequence[Array], codes: Sequence[Codes]
) -> Resampled | None:
    """The metrics of `class_scores` but the cost; None for too many classes.

    Args:
        metric: the name.
        probabilities: `[n, n_classes]` of each target.
        codes: `[n]` of each target.
    """
    pairs = list(zip(probabilities, codes, strict=True))
    if probabilities[0].shape[1] > MAX_CLASSES:
        return None
    if metric == "roc_auc":
        return _ranks(pairs)
    if metric in ("log_loss", "accuracy"):
        parts = [np.stack([f(*pair) for pair in pairs], axis=1) for f in (_surprise, _is_right)]
        return Sums(_joined(parts), _mean(("log_loss", "accuracy").index(metric)))
    rows = np.stack([_confused(*pair) for pair in pairs], axis=1)
    return Sums(rows, {"balanced_accuracy": _recall, "f1_macro": _f1}[metric])


def _ranks(pairs: Sequence[tuple[Array, Codes]]) -> Ranks:
    """Of two classes the second one alone."""
    values, members = [], []
    for probabilities, codes in pairs:
        n_classes = probabilities.shape[1]
        for index in range(1 if n_classes == 2 else 0, n_classes):
            values.append(probabilities[:, index])
            members.append(codes == index)
    return Ranks(np.stack(values), np.stack(members))


def _joined(parts: Sequence[Array]) -> Array:
    """Arrays `[n, n_targets]` and a last one of ones as `[n, n_targets, k]`."""
    return np.stack([*parts, np.ones_like(parts[0])], axis=-1)


def _mean(index: int) -> Callable[[Array], Array]:
    def mean(sums: Array) -> Array:
        found: Array = sums[..., index] / sums[..., -1]
        return found

    return mean


def _rmse(sums: Array) -> Array:
    root: Array = np.sqrt(_mean(0)(sums))
    return root


def _r2(sums: Array) -> Array:
    """Not defined for equal actual values."""
    squares, total, count = sums[..., 2], sums[..., 3], sums[..., -1]
    spread = squares - total**2 / count
    spread = np.where(spread > SMALLEST_SHARE * squares, spread, np.nan)
    found: Array = 1 - sums[..., 0] / spread
    return found


def _surprise(probabilities: Array, codes: Codes) -> Array:
    """Minus the logarithm of the actual class's probability, clipped as in scikit-learn."""
    least = np.finfo(probabilities.dtype).eps
    chosen = probabilities[np.arange(len(codes)), codes]
    found: Array = -np.log(np.clip(chosen, least, 1 - least))
    return found


def _is_right(probabilities: Array, codes: Codes) -> Array:
    found: Array = (probabilities.argmax(axis=1) == codes).astype(np.float64)
    return found


def _confused(probabilities: Array, codes: Codes) -> Array:
    """For each class whether a row is rightly predicted, predicted and actual, `[n, 3 n_classes]`."""
    one_hot = np.eye(probabilities.shape[1])
    predicted, actual = one_hot[probabilities.argmax(axis=1)], one_hot[codes]
    return np.concatenate([predicted * actual, predicted, actual], axis=1)


def _recall(sums: Array) -> Array:
    """The mean over the classes that a sample has."""
    right, _, actual = np.split(sums, 3, axis=-1)
    return _mean_of_some(right, actual)


def _f1(sums: Array) -> Array:
    """The mean over the classes that a sample has or that are predicted."""
    right, predicted, actual = np.split(sums, 3, axis=-1)
    return _mean_of_some(2 * right, predicted + actual)


def _mean_of_some(parts: Array, wholes: Array) -> Array:
    """The mean share over the last dimension, without shares of nothing."""
    some = wholes > 0
    shares = np.where(some, parts / np.where(some, wholes, 1), 0)
    mean: Array = shares.sum(-1) / some.sum(-1)
    return mean
