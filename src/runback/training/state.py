"""TrainState: everything that changes while a run trains, and that exact resume needs back."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from runback.config import TrainConfig
from runback.errors import ModelError
from runback.seeding import generator_states, restore_generators
from runback.training.optimizers import Schedule, make_optimizer, make_schedule


@dataclass(frozen=True)
class Best:
    """The weights of the best epoch so far, by `val_cost`. Never written to once made."""

    epoch: int
    val_cost: float
    model_state_dict: dict[str, Any]


@dataclass
class TrainState:
    """A training in progress.

    Attributes:
        epoch: epochs completed.
        batch: batches done inside the epoch in progress, 0 between epochs.
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
    def fresh(cls, model: nn.Module, config: TrainConfig, device: torch.device) -> TrainState:
        """The state before the first epoch, with the module moved to the device.

        Raises:
            ModelError: the module's state holds what no checkpoint can give back.
        """
        model = model.to(device)
        _check_storable(model)
        optimizer = make_optimizer(config, model.parameters())
        schedule = make_schedule(config, optimizer)
        zero = torch.zeros((), device=device, dtype=next(model.parameters()).dtype)
        return cls(model, optimizer, schedule, device, cost_sum=zero)

    def finish_epoch(self, cost: float, val_cost: float | None) -> None:
        """Counts the epoch, keeps its weights if they are the best, and steps the schedule."""
        self.epoch, self.batch, self.cost = self.epoch + 1, 0, cost
        self.cost_sum.zero_()
        if val_cost is not None and val_cost < (self.best.val_cost if self.best else math.inf):
            self.best = Best(self.epoch, val_cost, cloned(self.model.state_dict()))
        if self.schedule is not None:
            self.schedule.step(cost if val_cost is None else val_cost)

    def out_of_patience(self, patience: int) -> bool:
        """Whether `patience` epochs have passed since the best one; 0 is endless patience."""
        if patience == 0:
            return False
        return self.epoch - (self.best.epoch if self.best else 0) >= patience

    def is_finite(self) -> bool:
        """Whether every parameter is finite; a buffer may hold an infinity on purpose (a mask)."""
        return all(_is_finite(parameter.detach()) for parameter in self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """A copy that later training does not change, of tensors and plain values only."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "model_state_dict": self._weights(),
            "optimizer_state_dict": cloned(self.optimizer.state_dict()),
            "scheduler_state_dict": cloned(self.schedule.state_dict()) if self.schedule else None,
            "cost": self.cost,
            "cost_sum": self.cost_sum.clone(),
            "best": vars(self.best).copy() if self.best else None,
            "generators": generator_states(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; the model's weights are the caller's to check."""
        self.epoch, self.batch, self.cost = state["epoch"], state["batch"], state["cost"]
        self.model.load_state_dict(state["model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["scheduler_state_dict"])
        self.cost_sum.copy_(state["cost_sum"])
        self.best = Best(**state["best"]) if state["best"] else None
        restore_generators(state["generators"], self.device)

    def _weights(self) -> dict[str, Any]:
        """The model's weights; shared with `best` where those are the same, so stored once."""
        if self.best is not None and self.batch == 0 and self.best.epoch == self.epoch:
            return self.best.model_state_dict
        weights: dict[str, Any] = cloned(self.model.state_dict())
        return weights


def _check_storable(model: nn.Module) -> None:
    """Refuses, before any training, extra state that `weights_only` would not load again."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            continue
        try:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:  # pickle refuses in many ways
            raise ModelError(
                f"option model: {name!r} in the module's state_dict is a {type(value).__name__}, "
                "which no checkpoint can give back; use tensors and plain values"
            ) from error


def cloned(value: Any) -> Any:
    """A deep copy of nested dicts and lists with every tensor cloned where it lies."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cloned(item) for item in value)
    return copy.deepcopy(value)


def _is_finite(tensor: Tensor) -> bool:
    """`isfinite().all()` by the extremes, which NaN goes through: 30 times as fast, and no mask."""
    if tensor.is_complex() or not tensor.numel():
        return bool(torch.isfinite(tensor).all())
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
