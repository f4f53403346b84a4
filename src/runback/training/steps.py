"""The eager steps of an epoch: forward, backward and update of each batch, and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.model.batched_forward import chunk_rows
from runback.model.scaling import TargetScaled
from runback.tasks import Loss
from runback.training.device import read_scalars
from runback.training.fastpaths import make_update, mode_switch
from runback.training.optimizers import clip_gradients
from runback.training.state import TrainState

# Validation runs in pieces of at most this many rows.
VALIDATION_ROWS = 65_536

# Takes features and targets; returns a scalar.
CostOf = Callable[[Tensor, Tensor], Tensor]
Piece = tuple[Tensor, Tensor, float]


class Steps(Protocol):
    """The training and validation of an epoch."""

    def train(self, epoch: int, start: int) -> Iterator[tuple[Tensor, int]]:
        """Trains on the batches of an epoch from batch `start`, in groups.

        Yields:
            The sum of a group's costs, a scalar on the device, and its number of batches.
        """

    def validate(self) -> tuple[float, float | None]:
        """The sum of the epoch's batch costs, and the mean cost of the validation rows."""


class EagerSteps:
    """Trains on one batch at a time, uncompiled."""

    def __init__(
        self,
        state: TrainState,
        batches: Batches,
        validation: TableDataset | None,
        loss: Loss,
        config: TrainConfig,
    ) -> None:
        self.state, self.batches = state, batches
        self._step = make_step(state, loss, config)
        self._pieces = pieces_of(validation)
        self._cost_of, self._train_mode = make_cost(state, loss, config), mode_switch(state.model)

    def train(self, epoch: int, start: int) -> Iterator[tuple[Tensor, int]]:
        """See `Steps.train`."""
        for x, y in self.batches.epoch(epoch, start):
            yield self._step(x, y), 1

    @torch.no_grad()
    def validate(self) -> tuple[float, float | None]:
        """See `Steps.validate`; runs in eval mode, then sets train mode again."""
        self._train_mode(False)
        costs = [self._cost_of(x, y) for x, y, _ in self._pieces]
        self._train_mode(True)
        return read_costs(self.state.cost_sum, costs, self._pieces)


def make_step(state: TrainState, loss: Loss, config: TrainConfig) -> CostOf:
    """The training step: forward, backward, update; returns the batch cost, detached."""
    parameters = [p for p in state.model.train().parameters() if p.requires_grad]
    cost_of, update = make_cost(state, loss, config), make_update(state.optimizer)

    def step(x: Tensor, y: Tensor) -> Tensor:
        for parameter in parameters:  # zero_grad takes 13 us more, for the profiler
            parameter.grad = None
        cost = cost_of(x, y)
        cost.backward()
        if config.clip_norm:
            clip_gradients(parameters, config.clip_norm)
        update()
        return cost.detach()

    return step


def make_cost(state: TrainState, loss: Loss, config: TrainConfig) -> CostOf:
    """The cost of a batch, in the run's precision."""
    device, forward = state.device.type, _forward(state.model, loss)

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return forward(x, y)

    return mixed if config.precision == "bf16" else forward


def _forward(model: nn.Module, loss: Loss) -> CostOf:
    """The loss of a module's output; of scaled targets, before the module undoes the scaling."""
    if isinstance(model, TargetScaled):
        inner, target = model.module, model.target
        return lambda x, y: loss(inner(x), target(y))
    return lambda x, y: loss(model(x), y)


def pieces_of(part: TableDataset | None) -> list[Piece]:
    """A part in pieces of at most `VALIDATION_ROWS` rows, each with its share of the rows."""
    if not part:
        return []
    rows = min(VALIDATION_ROWS, chunk_rows(part.features))
    features, targets = part.features.split(rows), part.targets.split(rows)
    return [(x, y, len(x) / len(part)) for x, y in zip(features, targets, strict=True)]


def read_costs(
    cost_sum: Tensor, costs: list[Tensor], pieces: list[Piece]
) -> tuple[float, float | None]:
    """The sum of the batch costs and the mean validation cost, with one device synchronization."""
    total, *values = read_scalars([cost_sum, *costs])
    if not pieces:
        return total, None
    return total, sum(v * share for v, (_, _, share) in zip(values, pieces, strict=True))
