"""The scores of a run: those of its task, and those of the user's own metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from runback.config import TrainConfig
from runback.tasks import Loss, Metric, Target, Task, criterion
from runback.training.own_parts import OwnParts, metric_of, metric_value, own_functions


@dataclass(frozen=True)
class Scoring:
    """What scores the output of a run's module.

    Attributes:
        task: of the run.
        targets: its target columns.
        loss: its cost.
        own: with the user's own metrics.
    """

    task: Task
    targets: Sequence[Target]
    loss: Loss
    own: OwnParts = OwnParts()

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The scores by name, each with its direction."""
        return {**self.task.metrics, **{m.code.name: metric_of(m) for m in self.own.metrics}}

    def scores(self, output: Tensor, y: Tensor) -> dict[str, float]:
        """All scores of rows; arguments as in `Task.scores`.

        Raises:
            ModelError: a metric of the user's own is no number.
        """
        found = self.task.scores(output, y, self.loss, self.targets)
        return {**found, **self.own_scores(output, y)}

    @torch.no_grad()
    def own_scores(self, output: Tensor, y: Tensor) -> dict[str, float]:
        """The user's own metrics, by the names of their functions."""
        return {m.code.name: metric_value(m, self.task, output, y) for m in self.own.metrics}


def scoring(config: TrainConfig, task: Task, targets: Sequence[Target], own: OwnParts) -> Scoring:
    """The scoring of a configuration.

    Raises:
        ConfigError: class weights for targets that are numbers.
    """
    if own.loss is not None:
        return Scoring(task, targets, task.adapted(own.loss.function), own)
    return Scoring(task, targets, criterion(config.loss, config.class_weights, targets), own)


def recorded_scoring(
    config: TrainConfig, task: Task, targets: Sequence[Target], source: Path
) -> Scoring:
    """The scoring of a run, whose own functions are imported from a folder with its recorded code.

    Raises:
        ModelError: as in `own_parts`.
    """
    return scoring(config, task, targets, own_functions(config, source))
