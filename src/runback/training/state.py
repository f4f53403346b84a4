"""TrainState: the state of a training, as needed for an exact resume."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from runback.config import TrainConfig
from runback.errors import DivergedError, ModelError
from runback.model.probe import kinds_of, require_kinds
from runback.model.spec import load_weights
from runback.stateful import Position, Stateful, cloned
from runback.training.optimizers import Schedule, make_optimizer, make_schedule


@dataclass(frozen=True)
class Best:
    """The weights of the best epoch so far, by `val_cost`; never modified."""

    epoch: int
    val_cost: float
    model_state_dict: dict[str, Any]


@dataclass
class TrainState:
    """A training in progress.

    Attributes:
        epoch: completed epochs.
        batch: completed batches of the epoch in progress; 0 between epochs.
        cost_sum: sum of the batch costs of the epoch in progress, a scalar on the device.
        cost: the cost of the last completed epoch.
        best: the best epoch so far; None before the first, or without validation rows.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    schedule: Schedule | None
    device: torch.device
    epoch: int = 0
    batch: int = 0
    cost_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    cost: float = math.nan
    best: Best | None = None

    @classmethod
    def fresh(
        cls,
        model: nn.Module,
        config: TrainConfig,
        device: torch.device,
        own_optimizer: type[optim.Optimizer] | None = None,
    ) -> TrainState:
        """The state before the first epoch, with the module moved to the device.

        Args:
            model: the module.
            config: of the run.
            device: to train on.
            own_optimizer: the user's own class; None for the one that the options name in torch.

        Raises:
            ModelError: the module's state contains objects that cannot be checkpointed.
        """
        model = model.to(device)
        _check_storable(model)
        optimizer = make_optimizer(config, model.parameters(), own_optimizer)
        schedule = make_schedule(config, optimizer)
        zero = torch.zeros((), device=device, dtype=next(model.parameters()).dtype)
        return cls(model, optimizer, schedule, device, cost_sum=zero)

    def finish_epoch(self, cost: float, val_cost: float | None) -> None:
        """Completes an epoch: stores its weights if they are the best, and steps the schedule."""
        self.epoch, self.batch, self.cost = self.epoch + 1, 0, cost
        self.cost_sum.zero_()
        lowest = self.best.val_cost if self.best else math.inf
        if val_cost is not None and math.isfinite(val_cost) and val_cost < lowest:
            self.best = Best(self.epoch, val_cost, cloned(self.model.state_dict()))
        if self.schedule is not None:
            self.schedule.step(cost if val_cost is None else val_cost)

    def out_of_patience(self, patience: int) -> bool:
        """Whether `patience` epochs have passed since the best one; always False for 0."""
        if patience == 0:
            return False
        return self.epoch - (self.best.epoch if self.best else 0) >= patience

    @property
    def position(self) -> Position:
        """The completed epochs, and the completed batches of the next one."""
        return Position(self.epoch, self.batch)

    @position.setter
    def position(self, position: Position) -> None:
        self.epoch, self.batch = position

    def kept(self) -> dict[str, Stateful]:
        """The objects whose state is checkpointed, by name; position and cost are separate."""
        schedule = {} if self.schedule is None else {"scheduler": self.schedule}
        return {
            "model": _Weights(self),
            "optimizer": self.optimizer,
            **schedule,
            "progress": _Progress(self),
        }


class _Weights:
    """The model's weights as a `Stateful`."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._kinds = kinds_of(state.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The model's state_dict."""
        weights: dict[str, Any] = self._state.model.state_dict()
        return weights

    def snapshot(self) -> dict[str, Any]:
        """A copy, shared with the best epoch's weights if they are the same, to store them once.

        Raises:
            DivergedError: a parameter is not finite.
            ModelError: forward has changed the shape or dtype of an entry since the start.
        """
        state = self._state
        require_kinds(self._kinds, state.model.state_dict())
        if not is_finite(state.model):
            raise DivergedError(
                f"the weights are not finite after epoch {state.epoch}; try a smaller lr"
            )
        if state.best is not None and state.batch == 0 and state.best.epoch == state.epoch:
            return state.best.model_state_dict
        weights: dict[str, Any] = cloned(state.model.state_dict())
        return weights

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies weights into the model.

        Raises:
            ModelError: they do not fit; the entry is named.
        """
        load_weights(self._state.model, state_dict)


class _Progress:
    """The cost of the epoch in progress and the best epoch so far, as a `Stateful`."""

    def __init__(self, state: TrainState) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        """A copy; the best epoch's weights are shared, as they are never modified."""
        best = self._state.best
        return {
            "cost_sum": self._state.cost_sum.clone(),
            "best": vars(best).copy() if best else None,
        }

    snapshot = state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._state.cost_sum.copy_(state_dict["cost_sum"])
        best = state_dict["best"]
        self._state.best = Best(**best) if best else None


def is_finite(model: nn.Module) -> bool:
    """Whether every parameter is finite; buffers are not checked (a mask may contain infinities)."""
    return all(_is_finite(parameter.detach()) for parameter in model.parameters())


def _check_storable(model: nn.Module) -> None:
    """Checks that `weights_only` can load the module's extra state.

    Raises:
        ModelError: an entry cannot be loaded.
    """
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            continue
        try:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:  # pickle raises many types
            raise ModelError(
                f"option model: {name!r} in the module's state_dict is a {type(value).__name__}, "
                "which cannot be checkpointed; use tensors and plain values"
            ) from error


def _is_finite(tensor: Tensor) -> bool:
    """`isfinite().all()` by `aminmax`, which propagates NaN: 30 times as fast."""
    if tensor.is_complex() or not tensor.numel():
        return bool(torch.isfinite(tensor).all())
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
