"""torch's optimizers and learning-rate schedules, by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from runback.config import TrainConfig
from runback.errors import ConfigError
from runback.training.fastpaths import SGD, Adam, AdamW

TRIAL_EPOCHS = 3

_SCHEDULERS: dict[str, type[Any]] = {
    "step": StepLR,
    "cosine": CosineAnnealingLR,
    "plateau": ReduceLROnPlateau,
}


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The optimizer of a configuration. The fused form, one call for all weights, is used where it
    is faster; it does not support complex weights.
    """
    parameters = list(parameters)
    fused = all(p.is_floating_point() for p in parameters) or None
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        fused = fused if config.momentum else None
        return SGD(parameters, momentum=config.momentum, fused=fused, **common)
    if config.optimizer == "adam":
        return Adam(parameters, fused=fused, **common)
    return AdamW(parameters, fused=fused, **common)


class Schedule:
    """One of torch's schedulers, stepped once an epoch.

    The cosine schedule stays at its minimum after `T_max`; torch's would rise again in a run that is
    resumed with more epochs.

    Raises:
        ConfigError: on construction, if `scheduler_args` are invalid.
    """

    def __init__(self, config: TrainConfig, optimizer: optim.Optimizer) -> None:
        self.name, self.steps = config.scheduler, 0
        args = schedule_args(config)
        _check_schedule(self.name, args)
        self.torch_schedule = _SCHEDULERS[self.name](optimizer, **args)

    def step(self, cost: float) -> None:
        """Completes an epoch; `cost` is val_cost or, without one, cost, and used by plateau only."""
        if self.steps >= getattr(self.torch_schedule, "T_max", math.inf):
            return
        self.steps += 1
        if self.name == "plateau":
            self.torch_schedule.step(cost)
        else:
            self.torch_schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """The state, in plain values."""
        return {"steps": self.steps, "schedule": self.torch_schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self.steps = state["steps"]
        self.torch_schedule.load_state_dict(state["schedule"])


def make_schedule(config: TrainConfig, optimizer: optim.Optimizer) -> Schedule | None:
    """The schedule of a configuration; None for "none"."""
    return None if config.scheduler == "none" else Schedule(config, optimizer)


def schedule_args(config: TrainConfig) -> dict[str, Any]:
    """The arguments of the schedule, with defaults.

    Step: times 0.1 after each third of the run. Cosine: to zero at the end of the run. Plateau:
    torch's defaults.
    """
    defaults: dict[str, Any] = {}
    if config.scheduler == "step":
        defaults = {"step_size": max(1, config.epochs // 3), "gamma": 0.1}
    if config.scheduler == "cosine":
        defaults = {"T_max": config.epochs}
    return {**defaults, **config.scheduler_args}


def _check_schedule(name: str, args: dict[str, Any]) -> None:
    """Runs a schedule for a few epochs: torch checks some arguments only in `step`.

    Raises:
        ConfigError: the arguments are invalid.
    """
    try:
        inspect.signature(_SCHEDULERS[name]).bind(None, **args)
        for key in ("step_size", "T_max"):
            if key in args and not (type(args[key]) is int and args[key] >= 1):
                raise ValueError(f"{key} is not a whole number of at least 1")
        optimizer = optim.SGD([torch.zeros(())], lr=1.0)
        schedule = _SCHEDULERS[name](optimizer, **args)
        for _ in range(TRIAL_EPOCHS):
            optimizer.step()
            schedule.step(*([1.0] if name == "plateau" else []))
        if not math.isfinite(learning_rate(optimizer)):
            raise ValueError("the learning rate does not stay finite")
    except Exception as error:  # unchecked arguments can raise anything
        raise ConfigError(f"option scheduler_args: {name} refuses {args}: {error}") from None


def learning_rate(optimizer: optim.Optimizer) -> float:
    """The learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(parameters: list[nn.Parameter], largest_norm: float) -> None:
    """Scales gradients down to `largest_norm` (Pascanu, Mikolov, Bengio 2013)."""
    torch.nn.utils.clip_grad_norm_(parameters, largest_norm)
