"""The loop: one generator that trains and yields what happened, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.training.compiling import (
    CostOf,
    compiled_backward,
    eager_backward,
    missing_compiler,
)
from runback.training.device import read_scalars
from runback.training.optimizers import COSTS, clip_gradients, learning_rate, make_update
from runback.training.randomness import seed_generators
from runback.training.state import TrainState

# Validation in one pass where it fits, in pieces of this many rows where it does not.
VALIDATION_ROWS = 65_536


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
    step, validate = make_step(state, config), make_validation(state, validation, config)
    while state.epoch < config.epochs and not state.out_of_patience(config.patience):
        if state.batch == 0:
            seed_generators(config.seed, state.epoch + 1, state.device)
        lr = learning_rate(state.optimizer)
        for x, y in batches.epoch(state.epoch + 1, start=state.batch):
            state.cost_sum += step(x, y)
            state.batch += 1
            if pause() and state.batch < len(batches):
                yield MidEpoch(state.epoch + 1, state.batch)
        total, val_cost = validate()
        cost = total / len(batches)
        state.finish_epoch(cost, val_cost)
        yield EpochResult(state.epoch, cost, val_cost, lr)


def make_step(state: TrainState, config: TrainConfig) -> CostOf:
    """The training step: forward, backward, update; returns the batch cost, detached."""
    parameters = [p for p in state.model.train().parameters() if p.requires_grad]
    cost_of, update = make_cost(state, config), make_update(state.optimizer)
    if config.compile == "none" or missing_compiler(state.device):
        backward = eager_backward(cost_of, parameters)
    else:
        backward = compiled_backward(cost_of, parameters, config.compile)

    def step(x: Tensor, y: Tensor) -> Tensor:
        cost = backward(x, y)
        if config.clip_norm:
            clip_gradients(parameters, config.clip_norm)
        update()
        return cost

    return step


def make_validation(
    state: TrainState, part: TableDataset | None, config: TrainConfig
) -> Callable[[], tuple[float, float | None]]:
    """The end of an epoch: the sum of its batch costs, and the mean cost of the validation rows.

    The validation rows go through in eval mode; the module is back in train mode after. Nothing
    waits for a device before the last line, where all values come over at once.
    """
    if not part:
        return lambda: (state.cost_sum.item(), None)
    train_mode, cost_of = mode_switch(state.model), make_cost(state, config)
    pieces = _pieces(part)

    @torch.no_grad()
    def validate() -> tuple[float, float | None]:
        train_mode(False)
        costs = [cost_of(x, y) for x, y, _ in pieces]
        train_mode(True)
        total, *values = read_scalars([state.cost_sum, *costs])
        return total, sum(v * share for v, (_, _, share) in zip(values, pieces, strict=True))

    return validate


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


def _pieces(part: TableDataset) -> list[tuple[Tensor, Tensor, float]]:
    """A part in pieces of at most `VALIDATION_ROWS` rows, each with its share of the rows."""
    features = part.features.split(VALIDATION_ROWS)
    targets = part.targets.split(VALIDATION_ROWS)
    return [(x, y, len(x) / len(part)) for x, y in zip(features, targets, strict=True)]


def make_cost(state: TrainState, config: TrainConfig) -> CostOf:
    """The cost of a batch, in the run's precision."""
    model, cost, device = state.model, COSTS[config.loss], state.device.type

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return cost(model(x), y)

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return forward(x, y)

    return mixed if config.precision == "bf16" else forward
