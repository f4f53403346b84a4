"""Optimizers and learning-rate schedules by name, all torch's own."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from runback.config import TrainConfig
from runback.errors import ConfigError

TRIED_EPOCHS = 3

_SCHEDULERS: dict[str, type[Any]] = {
    "step": StepLR,
    "cosine": CosineAnnealingLR,
    "plateau": ReduceLROnPlateau,
}


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The optimizer that a configuration names, fused where that brings something: one call for
    all weights, where the plain form takes several for each. Only real weights can be fused.
    """
    _leave_dynamo_out()
    parameters = list(parameters)
    fused = all(p.is_floating_point() for p in parameters) or None
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        fused = fused if config.momentum else None
        return optim.SGD(parameters, momentum=config.momentum, fused=fused, **common)
    if config.optimizer == "adam":
        return optim.Adam(parameters, fused=fused, **common)
    return optim.AdamW(parameters, fused=fused, **common)


def _leave_dynamo_out() -> None:
    """Lets optimizers be made and saved without importing torch._dynamo, which takes a second.

    torch wraps these methods so that its compiler leaves them alone, and imports the compiler to
    do so; it looks for this attribute first. Where the compiler is there already, or torch has
    changed, nothing is done.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        plain = getattr(getattr(optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


class Schedule:
    """One of torch's schedulers, stepped once an epoch.

    The cosine stops at its lowest point: trained past `T_max`, torch's own would climb again, and
    a run that is resumed with more epochs would get a second wave that nobody asked for.

    Raises:
        ConfigError: on construction, where `scheduler_args` do not fit.
    """

    def __init__(self, config: TrainConfig, optimizer: optim.Optimizer) -> None:
        self.name, self.steps = config.scheduler, 0
        args = schedule_args(config)
        _try_schedule(self.name, args)
        self.torch_schedule = _SCHEDULERS[self.name](optimizer, **args)

    def step(self, cost: float) -> None:
        """Ends an epoch; `cost` is what the plateau watches: val_cost, or cost without one."""
        if self.steps >= getattr(self.torch_schedule, "T_max", math.inf):
            return
        self.steps += 1
        if self.name == "plateau":
            self.torch_schedule.step(cost)
        else:
            self.torch_schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {"steps": self.steps, "schedule": self.torch_schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.steps = state["steps"]
        self.torch_schedule.load_state_dict(state["schedule"])


def make_schedule(config: TrainConfig, optimizer: optim.Optimizer) -> Schedule | None:
    """The schedule that a configuration names, or None."""
    return None if config.scheduler == "none" else Schedule(config, optimizer)


def schedule_args(config: TrainConfig) -> dict[str, Any]:
    """The arguments of the schedule, with those that nobody gave.

    Step: a tenth after each third of the run. Cosine: to zero at its end. Plateau: torch's own.
    """
    defaults: dict[str, Any] = {}
    if config.scheduler == "step":
        defaults = {"step_size": max(1, config.epochs // 3), "gamma": 0.1}
    if config.scheduler == "cosine":
        defaults = {"T_max": config.epochs}
    return {**defaults, **config.scheduler_args}


def _try_schedule(name: str, args: dict[str, Any]) -> None:
    """Runs a few epochs of a schedule on nothing: torch notices some mistakes in `step` only."""
    try:
        inspect.signature(_SCHEDULERS[name]).bind(None, **args)
        for key in ("step_size", "T_max"):
            if key in args and not (type(args[key]) is int and args[key] >= 1):
                raise ValueError(f"{key} is not a whole number of at least 1")
        optimizer = optim.SGD([torch.zeros(())], lr=1.0)
        schedule = _SCHEDULERS[name](optimizer, **args)
        for _ in range(TRIED_EPOCHS):
            optimizer.step()
            schedule.step(*([1.0] if name == "plateau" else []))
        if not math.isfinite(learning_rate(optimizer)):
            raise ValueError("the learning rate does not stay finite")
    except Exception as error:  # torch checks little, and what it does not check raises anything
        raise ConfigError(f"option scheduler_args: {name} refuses {args}: {error}") from None


def learning_rate(optimizer: optim.Optimizer) -> float:
    """The learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(parameters: list[nn.Parameter], largest_norm: float) -> None:
    """Scales gradients down to `largest_norm` (Pascanu, Mikolov, Bengio 2013)."""
    torch.nn.utils.clip_grad_norm_(parameters, largest_norm)
