"""What a forked training takes over from the checkpoint of another one."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch import optim

from runback.config import TrainConfig
from runback.stateful import Stateful
from runback.training.optimizers import schedule_args
from runback.training.state import TrainState

WEIGHTS, OPTIMIZER, SCHEDULER, BEST = "weights", "optimizer", "scheduler", "best"
# The names of `TrainState.kept`.
_OBJECTS = {WEIGHTS: "model", OPTIMIZER: "optimizer", SCHEDULER: "scheduler", BEST: "progress"}
# What a schedule sets in the groups of an optimizer.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum")
_CYCLED = ("momentum", "betas")


def parts_kept(before: TrainConfig, config: TrainConfig, changed: Set[str]) -> tuple[str, ...]:
    """The names of what fits the options of a fork, of `WEIGHTS`, `OPTIMIZER`, `SCHEDULER`, `BEST`.

    The state of an optimizer fits the same optimizer with the same optimizer_args; that of a schedule
    fits the same schedule of the same lr. A val_cost can be compared if the cost is the same.

    Args:
        before: the options of the run that is forked, with the epochs of its schedule.
        config: those of the fork.
        changed: the names of the options that the fork has changed.
    """
    kept = [WEIGHTS]
    if not changed & {"optimizer", "optimizer_args"}:
        kept.append(OPTIMIZER)
        is_same = "epochs" not in changed or schedule_args(before) == schedule_args(config)
        if (
            config.scheduler != "none"
            and is_same
            and not changed & {"scheduler", "scheduler_args", "lr"}
        ):
            kept.append(SCHEDULER)
    if not changed & {"loss", "class_weights", "precision"}:
        kept.append(BEST)
    return tuple(kept)


def objects_kept(state: TrainState, kept: Set[str]) -> dict[str, Stateful]:
    """The objects of a new training that load their state, by their names in a checkpoint."""
    objects = state.kept()
    if OPTIMIZER in kept:
        objects["optimizer"] = _Carried(state.optimizer, SCHEDULER in kept)
    return {name: objects[name] for part, name in _OBJECTS.items() if part in kept}


class _Carried:
    """An optimizer that loads a state, and keeps its own settings such as weight_decay.

    Args:
        optimizer: new.
        is_scheduled: whether what a schedule sets, such as the learning rate, is loaded, too.
    """

    def __init__(self, optimizer: optim.Optimizer, is_scheduled: bool) -> None:
        self._optimizer, self._is_scheduled = optimizer, is_scheduled

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of the same optimizer with other settings."""
        own = [dict(group) for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state_dict)
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            loaded = {"params", *self._scheduled(group)}
            group.update({name: settings[name] for name in settings if name not in loaded})

    def _scheduled(self, group: dict[str, Any]) -> tuple[str, ...]:
        if not self._is_scheduled:
            return ()
        return _RATES + (_CYCLED if "max_momentum" in group else ())
