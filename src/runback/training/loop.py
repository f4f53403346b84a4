"""The loop: one generator that trains and yields what happened, on one screen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.errors import ConfigError
from runback.training.optimizers import COSTS, clip_gradients, learning_rate
from runback.training.randomness import seed_generators
from runback.training.state import TrainState

# Validation in one pass where it fits, in pieces of this many rows where it does not.
VALIDATION_ROWS = 65_536

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """A completed epoch.

    Attributes:
        epoch: epochs completed, from 1.
        cost: mean of the batch costs.
        val_cost: mean cost of the validation rows; None where there are none.
        lr: the learning rate that the epoch was trained with.
    """

    epoch: int
    cost: float
    val_cost: float | None
    lr: float


@dataclass(frozen=True, slots=True)
class MidEpoch:
    """A pause inside an epoch, where the caller may save the state or stop.

    Attributes:
        epoch: the epoch in progress, from 1.
        batch: batches done in it.
    """

    epoch: int
    batch: int


def run_epochs(
    state: TrainState,
    batches: Batches,
    validation: TableDataset | None,
    config: TrainConfig,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult | MidEpoch]:
    """Trains from where `state` stands until `config.epochs`, or until patience runs out.

    Args:
        state: changed in place; whenever this generator has yielded, it can be saved.
        batches: the training part.
        validation: rows for `val_cost`, on the training device; None or empty for none.
        config: decides the cost, precision, clipping, patience and the number of epochs.
        pause: asked after each batch; where it is true, a `MidEpoch` is yielded.

    Yields:
        An `EpochResult` for each completed epoch, and a `MidEpoch` for each pause.
    """
    step = make_step(state, config)
    while state.epoch < config.epochs and not state.out_of_patience(config.patience):
        if state.batch == 0:
            seed_generators(config.seed, state.epoch + 1, state.device)
        lr = learning_rate(state.optimizer)
        for x, y in batches.epoch(state.epoch + 1, start=state.batch):
            state.cost_sum += step(x, y)
            state.batch += 1
            if pause() and state.batch < len(batches):
                yield MidEpoch(state.epoch + 1, state.batch)
        cost = state.cost_sum.item() / len(batches)
        val_cost = validation_cost(state, validation, config) if validation else None
        state.finish_epoch(cost, val_cost)
        yield EpochResult(state.epoch, cost, val_cost, lr)


def make_step(state: TrainState, config: TrainConfig) -> Step:
    """The training step: forward, backward, update; returns the batch cost, detached."""
    model, optimizer = state.model.train(), state.optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    cost_of = _forward(state, config)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        cost = cost_of(x, y)
        cost.backward()
        if config.clip_norm:
            clip_gradients(parameters, config.clip_norm)
        optimizer.step()
        return cost.detach()

    return step


@torch.no_grad()
def validation_cost(state: TrainState, part: TableDataset, config: TrainConfig) -> float:
    """Mean cost over the rows of a part, in eval mode; the module is back in train mode after."""
    cost = COSTS[config.loss]
    state.model.eval()
    total = 0.0
    for low in range(0, len(part), VALIDATION_ROWS):
        x, y = part.features[low : low + VALIDATION_ROWS], part.targets[low : low + VALIDATION_ROWS]
        with _autocast(state.device, config):
            total += cost(state.model(x), y).item() * (len(x) / len(part))
    state.model.train()
    return total


def _forward(state: TrainState, config: TrainConfig) -> Step:
    """The cost of a batch, in the run's precision, compiled where the run asks for it."""
    model, cost = state.model, COSTS[config.loss]
    autocast = config.precision == "bf16"

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return cost(model(x), y)

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with _autocast(state.device, config):
            return forward(x, y)

    chosen = mixed if autocast else forward
    if config.compile == "none":
        return chosen
    check_compiler(state.device)
    compiled: Step = torch.compile(chosen, mode=config.compile)
    return compiled


def check_compiler(device: torch.device) -> None:
    """Refuses `compile` where torch has no compiler to call.

    Raises:
        ConfigError: no C++ compiler on this machine, which torch.compile needs on the CPU.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise ConfigError(
            "option compile: no C++ compiler on this machine; install g++ or use none"
        )


def _autocast(device: torch.device, config: TrainConfig) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
