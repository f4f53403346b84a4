"""torch's optimizers and learning-rate schedules, by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau, StepLR

from runback.config import TrainConfig
from runback.console.progress import say
from runback.errors import ConfigError, first_line
from runback.stateful import require_loadable
from runback.training.fastpaths import SGD, Adam, AdamW

TRIAL_EPOCHS = 3

_SCHEDULERS: dict[str, type[Any]] = {
    "step": StepLR,
    "cosine": CosineAnnealingLR,
    "plateau": ReduceLROnPlateau,
}


_OPTIMIZERS: dict[str, type[Any]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def make_optimizer(
    config: TrainConfig,
    parameters: Iterable[nn.Parameter],
    own: type[optim.Optimizer] | None = None,
) -> optim.Optimizer:
    """The optimizer of a configuration. The fused form, one call for all weights, is used where it
    is faster; it does not support complex weights.

    Args:
        config: of the run.
        parameters: to train.
        own: the user's own class; None for the one that the options name in torch.

    Raises:
        ConfigError: the class does not exist, or refuses its arguments or these parameters.
    """
    parameters, kind = list(parameters), own or optimizer_class(config)
    args = _arguments(config, kind, parameters)
    if config.optimizer not in _OPTIMIZERS or config.optimizer_args:
        _try_optimizer(config, kind, args)
    return _built(config, kind, parameters, args)


def _arguments(
    config: TrainConfig, kind: type[optim.Optimizer], parameters: list[nn.Parameter]
) -> dict[str, Any]:
    """The keyword arguments of an optimizer.

    Raises:
        ConfigError: the class has no weight decay.
    """
    args: dict[str, Any] = {"lr": config.lr}
    if "weight_decay" in inspect.signature(kind).parameters:
        args["weight_decay"] = config.weight_decay
    elif config.weight_decay:
        raise ConfigError(f"option weight_decay: {config.optimizer} has none; use 0")
    if config.optimizer in _OPTIMIZERS:
        args["fused"] = all(p.is_floating_point() for p in parameters) or None
    if config.optimizer == "sgd":
        args |= {"momentum": config.momentum, "fused": args["fused"] if config.momentum else None}
    return args | config.optimizer_args


def optimizer_class(config: TrainConfig) -> type[Any]:
    """The class of the option `optimizer`.

    Raises:
        ConfigError: torch has none of this name.
    """
    return _class_named(config.optimizer, "optimizer", _OPTIMIZERS, optim, optim.Optimizer)


def schedule_class(config: TrainConfig) -> type[Any]:
    """The class of the option `scheduler`, if it is not none.

    Raises:
        ConfigError: torch has none of this name.
    """
    return _class_named(config.scheduler, "scheduler", _SCHEDULERS, lr_scheduler, LRScheduler)


def check_names(config: TrainConfig) -> None:
    """Checks the names of the optimizer and the schedule.

    Raises:
        ConfigError: torch has none of a name.
    """
    if ":" not in config.optimizer:
        optimizer_class(config)
    if config.scheduler != "none":
        schedule_class(config)


def _class_named(
    name: str, option: str, own: Mapping[str, type[Any]], module: ModuleType, base: type
) -> type[Any]:
    """A class of `own`, or a subclass of `base` in a module of torch; nothing is imported."""
    if name in own:
        return own[name]
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and key[0] != "_"
    }
    del found[base.__name__]
    if name not in found:
        raise ConfigError(
            f"option {option}: {name!r} is not one of {', '.join(own)}, {', '.join(sorted(found))}"
        )
    return found[name]


def _built(
    config: TrainConfig,
    kind: type[optim.Optimizer],
    parameters: list[nn.Parameter],
    args: dict[str, Any],
) -> optim.Optimizer:
    try:
        built: optim.Optimizer = kind(parameters, **args)
    except Exception as error:  # unchecked arguments can raise anything
        raise _refusal(config, error) from None
    return built


def _try_optimizer(config: TrainConfig, kind: type[optim.Optimizer], args: dict[str, Any]) -> None:
    """Updates one small weight: torch checks some arguments only in `step`.

    Raises:
        ConfigError: the arguments are invalid, or the state could not be checkpointed.
    """
    weight, again = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer, other = _built(config, kind, [weight], args), _built(config, kind, [again], args)
    try:
        for _ in range(TRIAL_EPOCHS):
            _trial_step(optimizer, weight)
        require_loadable(optimizer.state_dict())
        other.load_state_dict(optimizer.state_dict())
        again.data.copy_(weight.data)
        _trial_step(optimizer, weight)
        _trial_step(other, again)
    except Exception as error:
        raise _refusal(config, error) from None
    if not torch.equal(weight, again):
        say(
            f"warning: option optimizer: {config.optimizer} continued from its state_dict takes "
            "another step, so a resumed run can differ; what a step depends on must be in its state"
        )


def _trial_step(optimizer: optim.Optimizer, weight: nn.Parameter) -> None:
    """One step, with the random numbers of every trial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weight.grad = torch.ones(2, 2)
        optimizer.step()


def _refusal(config: TrainConfig, error: Exception) -> ConfigError:
    given = f"{config.optimizer} refuses {config.optimizer_args}"
    return ConfigError(f"option optimizer_args: {given}: {first_line(error)}")


class Schedule:
    """One of torch's schedulers, stepped once an epoch.

    A schedule stays where it is after its `T_max` or `total_steps`; torch's would rise again or fail
    in a run that is resumed with more epochs.

    Raises:
        ConfigError: on construction, if the class does not exist or `scheduler_args` are invalid.
    """

    def __init__(self, config: TrainConfig, optimizer: optim.Optimizer) -> None:
        kind, args = schedule_class(config), schedule_args(config)
        self.steps, self.needs_cost = 0, issubclass(kind, ReduceLROnPlateau)
        _check_schedule(config, args, type(optimizer))
        try:
            self.torch_schedule = kind(optimizer, **args)
        except Exception as error:  # it does not fit this optimizer
            raise _schedule_refusal(config, args, error) from None

    def step(self, cost: float) -> None:
        """Completes an epoch; `cost` is val_cost or, without one, cost, and used by plateau only."""
        if self.steps >= self._last():
            return
        self.steps += 1
        if self.needs_cost:
            self.torch_schedule.step(cost)
        else:
            self.torch_schedule.step()

    def _last(self) -> float:
        """The step after which the rate stays; of the restored schedule, whose run may be shorter."""
        ends = (getattr(self.torch_schedule, name, None) for name in ("T_max", "total_steps"))
        return next((float(end) for end in ends if end is not None), math.inf)

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


def _check_schedule(
    config: TrainConfig, args: dict[str, Any], optimizer_kind: type[optim.Optimizer]
) -> None:
    """Runs a schedule for a few epochs: torch checks some arguments only in `step`.

    Raises:
        ConfigError: the arguments are invalid, or the state could not be checkpointed.
    """
    kind = schedule_class(config)
    try:
        inspect.signature(kind).bind(None, **args)
        for key in ("step_size", "T_max", "total_steps"):
            if key in args and not (type(args[key]) is int and args[key] >= 1):
                raise ValueError(f"{key} is not a whole number of at least 1")
        weights = [nn.Parameter(torch.zeros(2, 2))]
        optimizer = _built(
            config, optimizer_kind, weights, _arguments(config, optimizer_kind, weights)
        )
        schedule = kind(optimizer, **args)
        for _ in range(min(TRIAL_EPOCHS, args.get("total_steps", TRIAL_EPOCHS))):
            optimizer.step()
            schedule.step(*([1.0] if kind is ReduceLROnPlateau else []))
        if not math.isfinite(learning_rate(optimizer)):
            raise ValueError("the learning rate does not stay finite")
        require_loadable(schedule.state_dict())
    except Exception as error:  # unchecked arguments can raise anything
        raise _schedule_refusal(config, args, error) from None


def _schedule_refusal(config: TrainConfig, args: dict[str, Any], error: Exception) -> ConfigError:
    refusal = f"{config.scheduler} refuses {args}: {first_line(error)}"
    return ConfigError(f"option scheduler_args: {refusal}")


def learning_rate(optimizer: optim.Optimizer) -> float:
    """The learning rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(parameters: list[nn.Parameter], largest_norm: float) -> None:
    """Scales gradients down to `largest_norm` (Pascanu, Mikolov, Bengio 2013)."""
    torch.nn.utils.clip_grad_norm_(parameters, largest_norm)
