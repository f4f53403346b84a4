"""The training loop: a generator that yields an event for each epoch and each pause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runback.config import AUTO, TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.seeding import seed_generators
from runback.tasks import Loss, by_loss, loss_for
from runback.training.compiling import CompiledSteps, missing_compiler
from runback.training.optimizers import learning_rate
from runback.training.state import TrainState
from runback.training.steps import EagerSteps, Steps


@dataclass(frozen=True, slots=True)
class EpochResult:
    """A completed epoch.

    Attributes:
        epoch: completed epochs, from 1.
        cost: mean of the batch costs.
        val_cost: mean cost of the validation rows; None if there are none.
        lr: the learning rate of the epoch.
    """

    epoch: int
    cost: float
    val_cost: float | None
    lr: float


@dataclass(frozen=True, slots=True)
class MidEpoch:
    """A pause inside an epoch, at which the caller may save the state or stop.

    Attributes:
        epoch: the epoch in progress, from 1.
        batch: its completed batches.
    """

    epoch: int
    batch: int


def run_epochs(
    state: TrainState,
    batches: Batches,
    validation: TableDataset | None,
    config: TrainConfig,
    pause: Callable[[], bool] = lambda: False,
    loss: Loss | None = None,
) -> Iterator[EpochResult | MidEpoch]:
    """Trains from the position of `state` to `config.epochs`, or until patience is exhausted.

    Args:
        state: changed in place; it can be saved at each yield.
        batches: the training part.
        validation: rows for `val_cost`, on the training device; None or empty for none.
        config: the cost, precision, clipping, patience and the number of epochs.
        pause: called between batches; if it returns True, a `MidEpoch` is yielded.
        loss: the cost; None for the option `loss` without class weights, where auto is a numeric one.

    Yields:
        An `EpochResult` for each completed epoch, and a `MidEpoch` for each pause.
    """
    name = loss_for(()) if config.loss == AUTO else config.loss
    cost = loss or by_loss(name).losses[name]
    steps = make_steps(state, batches, validation, cost, config)
    while state.epoch < config.epochs and not state.out_of_patience(config.patience):
        if state.batch == 0:
            seed_generators(config.seed, state.epoch + 1, state.device)
        lr = learning_rate(state.optimizer)
        for cost_sum, n_batches in steps.train(state.epoch + 1, start=state.batch):
            state.cost_sum += cost_sum
            state.batch += n_batches
            if pause() and state.batch < len(batches):
                yield MidEpoch(state.epoch + 1, state.batch)
        total, val_cost = steps.validate()
        mean = total / len(batches)
        state.finish_epoch(mean, val_cost)
        yield EpochResult(state.epoch, mean, val_cost, lr)


def make_steps(
    state: TrainState,
    batches: Batches,
    validation: TableDataset | None,
    loss: Loss,
    config: TrainConfig,
) -> Steps:
    """Compiled steps if the option `compile` is set and the machine has a compiler; else eager."""
    if config.compile == "none" or missing_compiler(state.device):
        return EagerSteps(state, batches, validation, loss, config)
    return CompiledSteps(state, batches, validation, loss, config)
