"""The tasks: one module for each, and the registry `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runback.errors import ModelError
from runback.tasks.binary import Binary
from runback.tasks.classification import Classification
from runback.tasks.hints import hint_for
from runback.tasks.regression import Regression
from runback.tasks.task import Loss, Metric, NumberTarget, Target, Task

__all__ = [
    "TASKS",
    "Loss",
    "Metric",
    "NumberTarget",
    "Target",
    "Task",
    "by_loss",
    "by_name",
    "criterion",
    "hint_for",
    "load_libraries",
    "loss_for",
]

TASKS: Mapping[str, Task] = {task.name: task for task in (Regression(), Classification(), Binary())}


def by_name(name: str) -> Task:
    """The task of that name.

    Raises:
        ModelError: no registered task has this name.
    """
    if name not in TASKS:
        raise ModelError(f"task {name!r} is not one of {', '.join(TASKS)}")
    return TASKS[name]


def by_loss(loss: str) -> Task:
    """The task to which a value of the option `loss` belongs."""
    return next(task for task in TASKS.values() if loss in task.losses)


def loss_for(targets: Sequence[Target]) -> str:
    """The loss for targets, where the option `loss` is auto."""
    if not targets:
        return "mse"
    is_binary = all(len(target.classes) == 2 for target in targets)
    return "bce" if is_binary and len(targets) > 1 else "cross_entropy"


def criterion(loss: str, class_weights: str, targets: Sequence[Target]) -> Loss:
    """The loss of the options `loss` and `class_weights`.

    Raises:
        ConfigError: class weights for targets that are numbers.
    """
    task = by_loss(loss)
    return task.losses[loss] if class_weights == "none" else task.balanced(loss, targets)


def load_libraries() -> None:
    """Imports the libraries for scores and plots, which takes more than a second."""
    for task in TASKS.values():
        task.load_libraries()
