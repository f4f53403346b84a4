"""The user's own loss, metrics and optimizer, which options name or a run has recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from runback.config import LOSSES, TrainConfig
from runback.errors import ModelError, first_line
from runback.tasks import TASKS, Loss, Metric, Task, by_name
from runback.user_code import (
    Sourced,
    UserClass,
    UserFunction,
    import_class,
    import_function,
    pass_interruptions,
    resolve,
    sources_of,
)


@dataclass(frozen=True)
class OwnParts:
    """What the user's own code computes besides the module.

    Attributes:
        loss: None for a loss of a task.
        metrics: in the order of the option.
        optimizer: None for an optimizer of torch.
    """

    loss: UserFunction | None = None
    metrics: tuple[UserFunction, ...] = ()
    optimizer: UserClass | None = None

    @property
    def all(self) -> tuple[Sourced, ...]:
        """Those that are there."""
        parts = (self.loss, *self.metrics, self.optimizer)
        return tuple(part for part in parts if part is not None)

    @property
    def task(self) -> Task | None:
        """The task that the loss names in its attribute `task`; None without one.

        Raises:
            ModelError: there is no such task.
        """
        name = getattr(self.loss.function, "task", "") if self.loss else ""
        if name and name not in TASKS:
            raise ModelError(f"option loss: its attribute task is {name!r}, not one of {_listed()}")
        return by_name(name) if name else None


def own_parts(config: TrainConfig, source: Path | None = None) -> OwnParts:
    """Imports the user's own loss, metrics and optimizer.

    Args:
        config: names them.
        source: a folder with their recorded code; None to import them from their usual location.

    Raises:
        ModelError: code cannot be imported, has no such function or class, or is kept under the same
            name as another part's.
    """
    scored = own_functions(config, source)
    if ":" not in config.optimizer:
        return scored
    code = resolve(config.optimizer, source, "optimizer")
    optimizer = import_class(code, optim.Optimizer, "optimizer")
    return OwnParts(scored.loss, scored.metrics, optimizer)


def own_functions(config: TrainConfig, source: Path | None = None) -> OwnParts:
    """`own_parts` without the optimizer: what an evaluation needs.

    Raises:
        ModelError: as in `own_parts`.
    """
    loss = None
    if config.loss not in LOSSES:
        loss = _checked(import_function(resolve(config.loss, source, "loss"), "loss"), "loss")
    codes = [resolve(reference, source, "metrics") for reference in config.metrics]
    metrics = tuple(_checked(import_function(code, "metrics"), "metrics") for code in codes)
    _require_new_names([metric.code.name for metric in metrics])
    return OwnParts(loss, metrics)


def require_distinct(parts: OwnParts, module: UserClass | None) -> None:
    """Checks that the sources of all own code can be kept in one folder.

    Raises:
        ModelError: two different files have the same name.
    """
    sources_of((*parts.all, *([module] if module else [])))


def metric_of(part: UserFunction) -> Metric:
    """The direction of a metric: its attribute `higher_is_better`; without one, lower is better."""
    return Metric(bool(getattr(part.function, "higher_is_better", False)))


def metric_value(part: UserFunction, task: Task, output: Tensor, y: Tensor) -> float:
    """A metric of rows on the CPU.

    Raises:
        ModelError: it is no number.
    """
    found: Any = task.adapted(part.function)(output, y)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(
            f"option metrics: {part.code.reference} returns {_shown(found)}, not a number"
        ) from None


def check_functions(parts: OwnParts, task: Task, loss: Loss, output: Tensor, y: Tensor) -> None:
    """Computes the loss and the metrics of a few rows before the training.

    Args:
        parts: with the functions.
        task: of the run.
        loss: its cost.
        output: of the module, `[n, n_outputs]`, on the CPU.
        y: `[n, n_targets]`.

    Raises:
        ModelError: a function fails, the loss is no scalar that depends on the output, or a metric
            is no number.
    """
    if parts.loss is not None:
        cost = _computed("loss", parts.loss, partial(loss, output.detach().requires_grad_(), y))
        if not isinstance(cost, Tensor) or cost.dim() or not cost.requires_grad:
            raise ModelError(
                f"option loss: {parts.loss.code.reference} returns {_shown(cost)}; it must return a "
                "scalar tensor that depends on the output"
            )
    for part in parts.metrics:
        with torch.no_grad():
            _computed("metrics", part, partial(metric_value, part, task, output, y))


def _computed(option: str, part: UserFunction, compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except ModelError:
        raise
    except BaseException as error:  # a user's function can raise anything
        pass_interruptions(error)
        raise ModelError(
            f"option {option}: {part.code.reference} fails: {first_line(error)}"
        ) from error


def _checked(part: UserFunction, option: str) -> UserFunction:
    """Refuses a module with state of its own, which is in no checkpoint."""
    if isinstance(part.function, nn.Module) and part.function.state_dict():
        raise ModelError(
            f"option {option}: {part.code.reference} is a module with parameters or buffers, which are "
            "in no checkpoint; compute them inside a function"
        )
    return part


def _require_new_names(names: list[str]) -> None:
    known = {metric for task in TASKS.values() for metric in task.metrics}
    for index, name in enumerate(names):
        if name in known or name in names[:index]:
            raise ModelError(
                f"option metrics: {name!r} is the name of another score; rename the function"
            )


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of the shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _listed() -> str:
    return ", ".join(TASKS)
