"""`torch.compile` for the training: several steps and the validation as one graph."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from runback.config import TrainConfig
from runback.data.batches import Batches, TableDataset
from runback.tasks import Loss
from runback.training.state import TrainState
from runback.training.steps import CostOf, Piece, make_cost, pieces_of, read_costs
from runback.training.updates import LearningRate, make_graph_update, mark_static

COMPILERS = ("c++", "g++", "clang++")
# Steps in one graph. A small step takes a few microseconds and a graph call sixty, but the compile
# time grows with the number of steps. An epoch of at most this many steps is one graph.
GROUP = 4

Graph = Callable[[Tensor, Tensor, bool], tuple[Tensor, list[Tensor]]]


def missing_compiler(device: torch.device) -> str:
    """What torch.compile is missing on this machine; empty if nothing."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "mps" and not any(shutil.which(name) for name in COMPILERS):
        return f"none of {', '.join(COMPILERS)} is installed"
    return ""


class CompiledSteps:
    """Trains on groups of batches, each group one call of a compiled graph.

    The last group of an epoch also validates. Each group shape has its own graph, so that results
    do not depend on the shapes compiled before. Epochs are interrupted only between groups, so a
    resumed run forms the same groups.
    """

    def __init__(
        self,
        state: TrainState,
        batches: Batches,
        validation: TableDataset | None,
        loss: Loss,
        config: TrainConfig,
    ) -> None:
        self.state, self.batches, self.size = state, batches, config.batch_size
        self._lr = LearningRate(state.optimizer)
        self._pieces = [
            (mark_static(x), mark_static(y), share) for x, y, share in pieces_of(validation)
        ]
        cost_of = make_cost(state, loss, config)
        graph = make_graph(state, cost_of, self._pieces, config, self._lr)
        self._graph = compiled(graph, config.compile)
        self._costs: list[Tensor] = []

    def train(self, epoch: int, start: int) -> Iterator[tuple[Tensor, int]]:
        """See `Steps.train`."""
        self._lr.refresh()
        done = start
        for x, y in self.batches.epoch(epoch, start, GROUP):
            n_batches = -(-len(x) // self.size)
            done += n_batches
            validates = bool(self._pieces) and done == len(self.batches)
            cost, self._costs = self._graph(x, y, validates)
            yield cost, n_batches

    def validate(self) -> tuple[float, float | None]:
        """See `Steps.validate`."""
        return read_costs(self.state.cost_sum, self._costs, self._pieces)


def make_graph(
    state: TrainState,
    cost_of: CostOf,
    pieces: list[Piece],
    config: TrainConfig,
    lr: LearningRate,
) -> Graph:
    """The function to compile: training on a group of batches, and validation after the last one.

    Compiling only the forward pass makes small models slower: the backward pass is a second graph
    called from Python, and the update loops over the weights.
    """
    model = state.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    update = make_graph_update(state.optimizer, parameters, lr.tensor)

    def step(x: Tensor, y: Tensor) -> Tensor:
        cost = cost_of(x, y)
        gradients = torch.autograd.grad(cost, parameters, allow_unused=True)
        with torch.no_grad():
            update(clipped(gradients, config.clip_norm) if config.clip_norm else gradients)
        return cost.detach()

    def graph(x: Tensor, y: Tensor, validates: bool) -> tuple[Tensor, list[Tensor]]:
        parts = zip(x.split(config.batch_size), y.split(config.batch_size), strict=True)
        total = torch.stack([step(*part) for part in parts]).sum()
        return total, validated(model, cost_of, pieces) if validates else []

    return graph


def validated(model: nn.Module, cost_of: CostOf, pieces: list[Piece]) -> list[Tensor]:
    """The costs of the validation rows in eval mode; train mode is set again."""
    with torch.no_grad():
        model.eval()
        costs = [cost_of(x, y) for x, y, _ in pieces]
        model.train()
    return costs


def clipped(gradients: tuple[Tensor | None, ...], largest_norm: float) -> tuple[Tensor | None, ...]:
    """`clip_grad_norm_` for gradients in a tuple (Pascanu, Mikolov, Bengio 2013)."""
    norm = nn.utils.get_total_norm([g for g in gradients if g is not None])
    scale = torch.clamp(largest_norm / (norm + 1e-6), max=1.0)
    return tuple(None if g is None else g * scale for g in gradients)


def compiled(graph: Graph, mode: str) -> Graph:
    """Compiles a graph in one of torch's modes.

    After eight compilations of the same code object torch runs it uncompiled, which changes the
    last bits of results. So each training in a process gets its own copy of the code object.
    """
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        torch._dynamo.config.trace_autograd_ops = True
    graph.__code__ = graph.__code__.replace()
    return torch.compile(graph, mode=mode, dynamic=False)
