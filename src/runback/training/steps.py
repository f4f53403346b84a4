"""The steps of an epoch as torch runs them: batches through forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.tasks import Loss
from runback.training.device import read_scalars
from runback.training.optimizers import clip_gradients
from runback.training.state import TrainState
from runback.training.updates import make_update

# Validation in one pass where it fits, in pieces of this many rows where it does not.
VALIDATION_ROWS = 65_536

# Takes features and targets; returns a scalar.
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
        """See `Steps.validate`; in eval mode, and the module is back in train mode after."""
        self._train_mode(False)
        costs = [self._cost_of(x, y) for x, y, _ in self._pieces]
        self._train_mode(True)
        return read_costs(self.state.cost_sum, costs, self._pieces)


def make_step(state: TrainState, loss: Loss, config: TrainConfig) -> CostOf:
    """The training step: forward, backward, update; returns the batch cost, detached."""
    parameters = [p for p in state.model.train().parameters() if p.requires_grad]
    cost_of, update = make_cost(state, loss, config), make_update(state.optimizer)

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


def make_cost(state: TrainState, loss: Loss, config: TrainConfig) -> CostOf:
    """The cost of a batch, in the run's precision."""
    model, device = state.model, state.device.type

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return loss(model(x), y)

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


def mode_switch(model: nn.Module) -> Callable[[bool], object]:
    """`model.train`, without its walk through Python's slowest paths: 5 % of a small model's epoch.

    Modules with a `train` or `eval` of their own, such as one that keeps a part frozen, keep it.
    """
    modules = list(model.modules())
    attributes = [vars(module) for module in modules]
    plain = all(
        type(m).train is nn.Module.train and type(m).eval is nn.Module.eval for m in modules
    )
    if not plain or any("train" in own or "training" not in own for own in attributes):
        return model.train

    def switch(mode: bool) -> None:
        for own in attributes:
            own["training"] = mode

    return switch
