"""Checks that a model folder gives the module of an own loop back; see `runback.model.rebuild`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runback.errors import RebuildError, first_line
from runback.model.hidden_state import SavedAttributes, fingerprints
from runback.model.own_inputs import Example
from runback.model.own_spec import load_own
from runback.model.rebuild import advice, answer_task, new_generators
from runback.seeding import kept_generators, seed_generators
from runback.stateful import cloned
from runback.user_code import pass_interruptions

ARGS, KWARGS = "args", "kwargs"


@dataclass(frozen=True)
class Computed:
    """The tensors that a module returns, by their place, and the `fingerprints` of its attributes."""

    outputs: dict[str, Tensor]
    attributes: dict[str, str]


def inputs_of(example: Example) -> dict[str, Any]:
    """An example in the form of `computed`."""
    return {ARGS: list(example.args), KWARGS: example.kwargs}


def computed(module: nn.Module, inputs: Mapping[str, Any]) -> Computed:
    """What a module in eval mode on the CPU returns; the generators of forward are seeded.

    Raises:
        RebuildError: forward fails, or returns something without a tensor.
    """
    with kept_generators(), torch.no_grad():
        seed_generators(0, 0, torch.device("cpu"))
        try:
            returned = module(*inputs[ARGS], **inputs[KWARGS])
        except BaseException as error:  # a user's forward can raise anything
            pass_interruptions(error)
            raise RebuildError(f"forward fails on the example: {first_line(error)}") from error
    outputs = dict(_tensors(returned, ""))
    if not outputs:
        raise RebuildError(f"forward returns a {type(returned).__name__} without a tensor")
    return Computed(outputs, fingerprints(module))


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Sets eval mode; at the end of the block the module is as before."""
    modes = {part: part.training for part in module.modules()}
    attributes, weights = SavedAttributes(module), cloned(module.state_dict())
    module.eval()
    try:
        yield
    finally:
        attributes.restore(module)
        module.load_state_dict(weights)
        for part, mode in modes.items():
            part.training = mode


def rebuilt(folder: Path, inputs: Mapping[str, Any]) -> Computed:
    """What the module of a model folder returns; what its `__init__` draws from generators is new.

    Raises:
        ModelError, CheckpointError, RebuildError: the model cannot be loaded or computed.
    """
    with kept_generators():
        new_generators()
        module = load_own(folder, what="model").module
    return computed(module, inputs)


def require_equal(expected: Computed, found: Computed) -> None:
    """Compares two outputs bit for bit.

    Raises:
        RebuildError: they differ; the attributes that are not in the state_dict are named.
    """
    for name in expected.outputs.keys() | found.outputs.keys():
        one, other = expected.outputs.get(name), found.outputs.get(name)
        if one is None or other is None or not _is_same(one, other):
            raise RebuildError(
                "the module rebuilt from its files does not return what yours does for the example, so "
                "nothing was registered; "
                + advice(expected.attributes, found.attributes).replace("model_args", "args")
            )


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (one, other)))


def _tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in tuples, lists, dicts and dataclasses of outputs, by place."""
    if isinstance(value, Tensor):
        yield place, value.detach().cpu()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{place}[{index}]")


def main() -> None:
    """The process in which the user's code is run."""
    answer_task(rebuilt)
