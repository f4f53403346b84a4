"""The steps of an epoch as torch runs them: batches through forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.training.device import read_scalars
from runback.training.fastpaths import make_update, mode_switch
from runback.training.optimizers import COSTS, clip_gradients
from runback.training.state import TrainState

# Validation in one pass where it fits, in pieces of this many rows where it does not.
VALIDATION_ROWS = 65_536

CostOf = Callable[[Tensor, Tensor], Tensor]
Piece = tuple[Tensor, Tensor, float]


class Steps(Protocol):
    """What the loop needs to get through an epoch."""

    def train(self, epoch: int, start: int) -> Iterator[tuple[Tensor, int]]:
        """Trains on the batches of an epoch from `start` on, a few at a time.

        Yields:
            The sum of their costs, a scalar on the device, and how many they were.
        """

    def validate(self) -> tuple[float, float | None]:
        """The sum of the epoch's batch costs, and the mean cost of the validation rows."""


class EagerSteps:
    """One batch at a time, one operation after the other."""

    def __init__(
        self,
        state: TrainState,
        batches: Batches,
        validation: TableDataset | None,
        config: TrainConfig,
    ) -> None:
        self.state, self.batches = state, batches
        self._step = make_step(state, config)
        self._pieces = pieces_of(validation)
        self._cost_of, self._train_mode = make_cost(state, config), mode_switch(state.model)

    def train(self, epoch: int, start: int) -> Iterator[tuple[Tensor, int]]:
        """See `Steps.train`."""
        for x, y in self.batches.epoch(epoch, start):
            yield self._step(x, y), 1

    @torch.no_grad()
    def validate(self) -> tuple[float, float | None]:
        """See `Steps.validate`; in eval mode, and the module is back in train mode after."""
        self._train_mode(False)
        costs = [self._cost_of(x, y) for x, y, _ in self._pieces]
        self._train_mode(True)
        return read_costs(self.state.cost_sum, costs, self._pieces)


def make_step(state: TrainState, config: TrainConfig) -> CostOf:
    """The training step: forward, backward, update; returns the batch cost, detached."""
    parameters = [p for p in state.model.train().parameters() if p.requires_grad]
    cost_of, update = make_cost(state, config), make_update(state.optimizer)

    def step(x: Tensor, y: Tensor) -> Tensor:
        for parameter in parameters:  # as zero_grad does, without its profiler's 13 us
            parameter.grad = None
        cost = cost_of(x, y)
        cost.backward()
        if config.clip_norm:
            clip_gradients(parameters, config.clip_norm)
        update()
        return cost.detach()

    return step


def make_cost(state: TrainState, config: TrainConfig) -> CostOf:
    """The cost of a batch, in the run's precision."""
    model, cost, device = state.model, COSTS[config.loss], state.device.type

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return cost(model(x), y)

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return forward(x, y)

    return mixed if config.precision == "bf16" else forward


def pieces_of(part: TableDataset | None) -> list[Piece]:
    """A part in pieces of at most `VALIDATION_ROWS` rows, each with its share of the rows."""
    if not part:
        return []
    features = part.features.split(VALIDATION_ROWS)
    targets = part.targets.split(VALIDATION_ROWS)
    return [(x, y, len(x) / len(part)) for x, y in zip(features, targets, strict=True)]


def read_costs(
    cost_sum: Tensor, costs: list[Tensor], pieces: list[Piece]
) -> tuple[float, float | None]:
    """The values of an epoch's end, all at once: nothing has waited for a device before this."""
    total, *values = read_scalars([cost_sum, *costs])
    if not pieces:
        return total, None
    return total, sum(v * share for v, (_, _, share) in zip(values, pieces, strict=True))
