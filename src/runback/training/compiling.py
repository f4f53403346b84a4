"""`torch.compile` for the training step: forward and backward as one graph."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

CostOf = Callable[[Tensor, Tensor], Tensor]
COMPILERS = ("c++", "g++", "clang++")


def missing_compiler(device: torch.device) -> str:
    """What torch.compile lacks on this machine, in words; empty where it lacks nothing."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "mps" and not any(shutil.which(name) for name in COMPILERS):
        return f"none of {', '.join(COMPILERS)} is installed"
    return ""


def eager_backward(cost_of: CostOf, parameters: list[nn.Parameter]) -> CostOf:
    """Forward and backward as torch runs them: sets every `grad`, returns the cost, detached."""

    def backward(x: Tensor, y: Tensor) -> Tensor:
        for parameter in parameters:  # as zero_grad does, without its profiler's 13 us
            parameter.grad = None
        cost = cost_of(x, y)
        cost.backward()
        return cost.detach()

    return backward


def compiled_backward(cost_of: CostOf, parameters: list[nn.Parameter], mode: str) -> CostOf:
    """`eager_backward` in one compiled graph.

    Compiling the forward alone makes small models slower: autograd still walks from Python to a
    second graph. With the gradients as outputs of the same graph there is one call, and half the
    time. Each batch shape gets a graph of its own, so that the numbers of a batch do not depend on
    which shape this process met first, and a run resumed inside an epoch stays exact.
    """
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        torch._dynamo.config.trace_autograd_ops = True

    def graph(x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        cost = cost_of(x, y)
        return cost.detach(), torch.autograd.grad(cost, parameters, allow_unused=True)

    compiled = torch.compile(graph, mode=mode, dynamic=False)

    def backward(x: Tensor, y: Tensor) -> Tensor:
        for parameter in parameters:  # CUDA graphs write into the memory that this frees
            parameter.grad = None
        cost, gradients = compiled(x, y)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return cost

    return backward
