"""Binary classification: one or several targets with two classes each, an output for each target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runback.errors import ConfigError
from runback.tasks import baselines, class_scores, resampling
from runback.tasks.class_scores import Codes, Probabilities
from runback.tasks.classification import columns_of, labels_of
from runback.tasks.resampling import Resampled
from runback.tasks.task import Loss, Metric, Target, numbers_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_PLOTTED = 4


class Binary:
    """See `runback.tasks.Task`; the output are logits of the second class, `[n, n_targets]` or arrays.

    Scores are averaged over the targets with equal weight.
    """

    name = "binary"
    model_type = "classifier"
    has_classes = True
    losses: Mapping[str, Loss] = {"bce": functional.binary_cross_entropy_with_logits}
    metrics: Mapping[str, Metric] = class_scores.METRICS
    primary_metric = class_scores.PRIMARY_METRIC

    def target_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Codes 0 and 1 in the dtype of the weights."""
        return dtype

    def n_outputs(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> int:
        """One output for each target, or for each number of an array.

        Raises:
            ConfigError: a target has more than two classes.
        """
        for target in targets:
            if len(target.classes) != 2:
                raise ConfigError(
                    f"option loss: bce has yes/no targets, and {target.name!r} has "
                    f"{len(target.classes)} classes; use cross_entropy"
                )
        return len(targets) * math.prod(shape)

    def output_shape(self, targets: Sequence[Target], shape: Sequence[int] = ()) -> tuple[int, ...]:
        """That of the targets."""
        return tuple(shape) or (self.n_outputs(targets),)

    def balanced(self, loss: str, targets: Sequence[Target]) -> Loss:
        """Binary cross entropy in which both classes of a target have the same total weight."""
        counts = torch.tensor([list(target.counts) for target in targets], dtype=torch.float64)
        weights = counts.sum(1, keepdim=True) / (2 * counts)  # [n_targets, 2]

        def weighted(output: Tensor, y: Tensor) -> Tensor:
            no, yes = weights.to(output.device, output.dtype).unbind(1)
            weight = torch.where(y > 0.5, yes, no)
            return functional.binary_cross_entropy_with_logits(output, y, weight)

        return weighted

    def adapted(self, function: Loss) -> Loss:
        """The function itself: it gets logits and zeros and ones, `[n, n_targets]` or arrays."""
        return function

    def scores(
        self, output: Tensor, y: Tensor, loss: Loss, targets: Sequence[Target]
    ) -> dict[str, float]:
        """The run's cost and `class_scores`, averaged over targets.

        A score that is undefined for one target is left out. Only `cost` if an output is not finite.
        """
        scores = {"cost": loss(output, y).item()}
        if not bool(output.isfinite().all()):
            return scores
        output, y = numbers_of(output, y)
        each = [
            class_scores.class_scores(shares, codes)
            for shares, codes in zip(_probabilities(output), _codes(y), strict=True)
        ]
        names = [name for name in self.metrics if all(name in found for found in each)]
        return scores | {name: float(np.mean([found[name] for found in each])) for name in names}

    def resampled(self, metric: str, output: Tensor, y: Tensor, loss: Loss) -> Resampled | None:
        """All metrics, of arrays the cost alone; see `runback.tasks.Task`."""
        if metric == "cost":
            return resampling.cost(loss, output, y)
        if y.dim() > 2:
            return None
        return resampling.of_classes(metric, _probabilities(output), _codes(y))

    def baselines(
        self, x: Tensor, y: Tensor, rows: slice, x_test: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Tensor]]:
        """The share of the second class, and a logistic regression for each target.

        Of arrays the share alone.
        """
        if y.dim() > 2:
            share = _logits([baselines.shares_of(_codes(y.reshape(-1, 1))[0], len(x_test), 2)])
            yield "constant", share.reshape(-1, *[1] * (y.dim() - 1)).expand(-1, *y.shape[1:])
            return
        known, asked, codes = x.double().numpy(), x_test.double().numpy(), _codes(y)
        yield "constant", _logits(baselines.shares_of(c, len(asked), 2) for c in codes)
        yield (
            "linear",
            _logits(baselines.linear_probabilities(known, c[rows], asked, 2) for c in codes),
        )

    def decode(
        self, output: Tensor, targets: Sequence[Target], probabilities: bool = False
    ) -> pd.DataFrame:
        """The second class where its probability is above one half."""
        return labels_of(zip(targets, _probabilities(output), strict=True), probabilities)

    def columns(self, targets: Sequence[Target], probabilities: bool) -> list[str]:
        """The targets and, where asked for, the classes of each."""
        return columns_of(targets, probabilities)

    def row_errors(self, output: Tensor, y: Tensor) -> tuple[str, Probabilities]:
        """1 for a wrong prediction, otherwise 0; the mean of the targets."""
        return "share of wrong predictions", class_scores.wrong_rows(
            _probabilities(output), _codes(y)
        )

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[Target]
    ) -> Iterator[tuple[str, Figure]]:
        """The plots of a classification for each of the first `MAX_PLOTTED` targets."""
        output, y = numbers_of(output, y)
        triples = zip(targets, _probabilities(output), _codes(y), strict=True)
        for number, (target, shares, codes) in zip(range(MAX_PLOTTED), triples, strict=False):
            labels = [str(label) for label in target.classes]
            for stem, figure in class_scores.class_plots(shares, codes, labels):
                yield stem if len(targets) == 1 else f"{stem}-{number + 1}", figure

    def load_libraries(self) -> None:
        """Imports scikit-learn's metrics and matplotlib."""
        class_scores.load_libraries()


def _codes(y: Tensor) -> list[Codes]:
    return [column.numpy() for column in (y > 0.5).long().unbind(1)]


def _probabilities(output: Tensor) -> list[Probabilities]:
    """`[n, 2]` float64 for each target."""
    yes = output.double().sigmoid()
    return [torch.stack((1 - p, p), 1).numpy() for p in yes.unbind(1)]


def _logits(probabilities: Iterable[Probabilities]) -> Tensor:
    """`[n, n_targets]` from `[n, 2]` of each target."""
    columns = [np.log(shares[:, 1]) - np.log(shares[:, 0]) for shares in probabilities]
    return torch.from_numpy(np.stack(columns, 1))
