"""The tasks: one module for each, and the registry `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping

from runback.errors import ModelError
from runback.tasks.regression import Regression
from runback.tasks.task import Loss, Metric, Task

__all__ = ["TASKS", "Loss", "Metric", "Task", "by_loss", "by_name", "load_libraries"]

TASKS: Mapping[str, Task] = {task.name: task for task in (Regression(),)}


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


def load_libraries() -> None:
    """Imports the libraries for scores and plots, which takes more than a second."""
    for task in TASKS.values():
        task.load_libraries()
