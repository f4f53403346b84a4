"""The optimizers' updates as functions that can be part of a compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.adam import adam
from torch.optim.sgd import sgd

GraphUpdate = Callable[[Sequence[Tensor | None]], None]


class LearningRate:
    """The learning rate as a scalar on the device: a Python float would be a constant of the
    graph, and each new value would need a recompilation.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self._group = optimizer.param_groups[0]
        first: Tensor = self._group["params"][0]
        rate = torch.tensor(self._group["lr"], dtype=fine(first), device=first.device)
        self.tensor = mark_static(rate)

    def refresh(self) -> None:
        """Copies the optimizer's learning rate, which a schedule may have changed."""
        self.tensor.fill_(self._group["lr"])


def make_graph_update(
    optimizer: optim.Optimizer, parameters: Sequence[nn.Parameter], lr: Tensor
) -> GraphUpdate:
    """The optimizer's update with torch's functional optimizers.

    `optimizer.step` would break the graph. The state stays in the optimizer, under torch's names;
    missing state is initialized with zeros, as in torch's first step.

    Args:
        optimizer: SGD, Adam or AdamW.
        parameters: to update, in the order of the gradients.
        lr: the learning rate, a scalar on the device.
    """
    vars(optimizer)["_opt_called"] = True  # else torch's schedules warn that `step` was not called
    options, state = optimizer.param_groups[0], optimizer.state
    if isinstance(optimizer, optim.SGD):
        names = ["momentum_buffer"] if options["momentum"] else []
        form = _sgd
    else:
        names = ["exp_avg", "exp_avg_sq", "step"]
        form = _adam
    kept = [[_kept(state[p], name, p) for name in names] for p in parameters]

    def update(gradients: Sequence[Tensor | None]) -> None:
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        given = [gradients[i] for i in used]
        form([parameters[i] for i in used], given, [kept[i] for i in used], lr, options)

    return update


def _kept(state: dict[str, Any], name: str, parameter: Tensor) -> Tensor:
    """A tensor of the optimizer's state, created if missing."""
    if name not in state:
        is_step = name == "step"
        zeros = torch.zeros((), device=parameter.device) if is_step else torch.zeros_like(parameter)
        state[name] = zeros
    kept: Tensor = state[name]
    return mark_static(kept)


def mark_static(tensor: Tensor) -> Tensor:
    """Marks a tensor whose address never changes. CUDA graphs write only to such tensors, and copy
    all others before each call.
    """
    torch._dynamo.mark_static_address(tensor)
    return tensor


def _sgd(
    parameters: list[Tensor], gradients: list[Any], kept: list[Any], lr: Any, options: Any
) -> None:
    sgd(
        parameters,
        gradients,
        [tensors[0] if tensors else None for tensors in kept],
        foreach=True,
        lr=_rate(lr),
        weight_decay=options["weight_decay"],
        momentum=options["momentum"],
        dampening=options["dampening"],
        nesterov=options["nesterov"],
        maximize=options["maximize"],
    )


def _adam(
    parameters: list[Tensor], gradients: list[Any], kept: list[Any], lr: Any, options: Any
) -> None:
    """Bias corrections use `fine` precision, as in eager mode: in float32, 1 - 0.999 has an error
    of 6e-5.
    """
    steps = [tensors[2].to(fine(tensors[2])) for tensors in kept]
    adam(
        parameters,
        gradients,
        [tensors[0] for tensors in kept],
        [tensors[1] for tensors in kept],
        [],
        steps,
        foreach=True,
        capturable=torch.compiler.is_compiling(),
        amsgrad=False,
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        lr=_rate(lr),
        decoupled_weight_decay=options["decoupled_weight_decay"],
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        maximize=options["maximize"],
    )
    for tensors, step in zip(kept, steps, strict=True):
        tensors[2].copy_(step)


def _rate(lr: Tensor) -> Any:
    """A tensor in a graph; a float if torch's compiler fell back to eager mode."""
    return lr if torch.compiler.is_compiling() else lr.item()


def fine(tensor: Tensor) -> torch.dtype:
    """The dtype for scalars of an update; MPS has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
