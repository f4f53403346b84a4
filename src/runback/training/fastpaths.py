"""Fast paths around torch's public API, each with its measured gain and what it gives up.

They change no numbers, and no class or function of torch. The gains are those of the seed's
regression (160 training rows, batches of 128, so one step an epoch, and 20 validation rows; torch
2.13, one CPU thread): an epoch takes 290 us with all of them, as the lower quartile of 40 trainings
of 200 epochs that took turns with those without; a gain is the median difference within a turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn, optim


class _WithoutDynamo:
    """Optimizer methods without the decorator that imports torch._dynamo.

    torch decorates these methods so that its compiler leaves them alone, and imports the compiler
    at their first call: `add_param_group` is called when an optimizer is made.

    Gain: 1.1 s of CPU time at the start of a training, where that takes 2.6 s in all. A training
    with a schedule or with `compile` gains nothing, as it imports the compiler anyway.

    Gives up: `torch.compile` would trace into these methods, if it were given code that calls them.
    `type(optimizer)` is a subclass of torch's class; its state_dict is the same.
    """

    add_param_group = inspect.unwrap(optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(optim.Optimizer.load_state_dict)


class SGD(_WithoutDynamo, optim.SGD):
    """`torch.optim.SGD` that does not import torch._dynamo."""


class Adam(_WithoutDynamo, optim.Adam):
    """`torch.optim.Adam` that does not import torch._dynamo."""


class AdamW(_WithoutDynamo, optim.AdamW):
    """`torch.optim.AdamW` that does not import torch._dynamo."""


def make_update(optimizer: optim.Optimizer) -> Callable[[], None]:
    """`optimizer.step()` without torch's wrappers around it.

    One wrapper is the profiler's, the other is there for the compiler, and imports it. Both use
    `functools.wraps`, so that `inspect.unwrap` finds the method itself.

    Gain: 40 us of an epoch, 13 %.

    Gives up: torch's profiler does not show the step under the optimizer's name, and hooks that
    are registered on the optimizer are not called. Where the instance has a `step` of its own, as
    a schedule gives it, that one is called, with all wrappers.
    """
    if "step" in vars(optimizer):
        return lambda: optimizer.step() and None
    plain = inspect.unwrap(type(optimizer).step)

    @torch.no_grad()
    def update() -> None:
        plain(optimizer)

    return update


def mode_switch(model: nn.Module) -> Callable[[bool], object]:
    """`model.train` as plain assignments, without `nn.Module.__setattr__` in each module.

    Gain: 17 us of an epoch, 6 %; more for models with more modules.

    Gives up: modules that are added to the model later are not switched. A model with a module
    that has a `train` or `eval` of its own, such as one that keeps a part frozen, gets
    `model.train` itself.
    """
    modules = list(model.modules())
    attributes = [vars(module) for module in modules]
    plain = all(
        type(m).train is nn.Module.train and type(m).eval is nn.Module.eval for m in modules
    )
    if not plain or any("train" in own or "training" not in own for own in attributes):
        return model.train

    def switch(mode: bool) -> None:
        for own in attributes:
            own["training"] = mode

    return switch
