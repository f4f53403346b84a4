"""Runs a module on a few rows before the training: finds mistakes, and state that is not stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from runback.errors import ModelError, first_line
from runback.model.hidden_state import (
    SavedAttributes,
    changed_names,
    fingerprints,
    generators_of,
    listed,
)
from runback.model.rebuild import advice, differing_rows
from runback.model.spec import kind_of, load_weights
from runback.seeding import generator_states, restore_generators, seed_generators
from runback.stateful import cloned
from runback.user_code import pass_interruptions


def check_module(
    module: nn.Module, features: Tensor, shape: Sequence[int], *, twin: nn.Module | None = None
) -> list[str]:
    """Runs a module twice in each mode; afterwards it is unchanged, as are all generators.

    Lazy parameters are materialized by the first pass.

    Args:
        module: on the CPU.
        features: `[n, n_features]`.
        shape: of the output for a row, such as `(n_targets,)`.
        twin: the same module, built a second time with other random numbers, for the warnings.

    Returns:
        Warnings: one sentence for each kind of state that the state_dict does not hold.

    Raises:
        ModelError: forward fails on `[n, n_features]`, does not return `[n, *shape]` in the
            dtype of its input, its output depends on no parameter, or it changes the entries of the
            state_dict, their shapes or dtypes.
    """
    with same_generators():
        _materialize(module, features, shape)
        with _unchanged(module):
            outputs = [_eval_pass(module, features, shape, seed) for seed in (1, 2)]
            changing = _changing(module, features, shape)
        found = _warnings(module, changing, *outputs)
        return found + _twin_warnings(module, twin, features, outputs[0])


def _changing(module: nn.Module, features: Tensor, shape: Sequence[int]) -> list[str]:
    """The names of what changes in a training step and is not in the state_dict.

    The second step counts: a cache is filled by the first.
    """
    _train_pass(module, features, shape)
    before = fingerprints(module)
    _eval_pass(module, features.flip(0), shape, seed=3)
    _train_pass(module, features.flip(0), shape)
    return changed_names(before, fingerprints(module))


def check_one_row(module: nn.Module, features: Tensor, shape: Sequence[int], hint: str) -> None:
    """Runs a module in train mode on one row, if a batch of the training has only one.

    Args:
        module: checked by `check_module`.
        features: `[1, n_features]`.
        shape: of the output for a row, such as `(n_targets,)`.
        hint: the option at fault, and what would be right.

    Raises:
        ModelError: forward fails on one row.
    """
    try:
        with same_generators(), _unchanged(module):
            _train_pass(module, features, shape)
    except ModelError as error:
        raise ModelError(f"{error}; {hint}") from None


@contextmanager
def same_generators() -> Iterator[None]:
    """Restores the states of all global generators at the end of the block."""
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Restores weights, buffers and other attributes at the end of the block; sets train mode.

    Raises:
        ModelError: the block has changed the entries of the state_dict, their shapes or dtypes.
    """
    attributes, weights = SavedAttributes(module), cloned(module.state_dict())
    try:
        yield
        require_kinds(kinds_of(weights), module.state_dict())
    finally:
        attributes.restore(module)
        module.train()
    module.load_state_dict(weights)


def _materialize(module: nn.Module, features: Tensor, shape: Sequence[int]) -> None:
    if any(map(is_lazy, [*module.parameters(), *module.buffers()])):
        before = module.state_dict().keys()
        _eval_pass(module, features, shape, seed=1)
        _require_names(before, module.state_dict().keys())


def _eval_pass(module: nn.Module, features: Tensor, shape: Sequence[int], seed: int) -> Tensor:
    seed_generators(seed, 0, features.device)
    module.eval()
    with torch.no_grad():
        return _checked_forward(module, features, shape)


def _train_pass(module: nn.Module, features: Tensor, shape: Sequence[int]) -> None:
    module.train()
    output = _checked_forward(module, features, shape)
    if not output.requires_grad:
        raise ModelError("option model: the output of forward depends on no parameter")


def _checked_forward(module: nn.Module, features: Tensor, shape: Sequence[int]) -> Tensor:
    try:
        output = module(features)
    except BaseException as error:  # a user's forward can raise anything
        pass_interruptions(error)
        mode = " in train mode" if module.training else ""
        raise ModelError(
            f"option model: forward fails{mode} on input {list(features.shape)}: {first_line(error)}"
        ) from error
    expected = (features.shape[0], *shape)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or found != expected:
        what = "(rows, targets)" if len(shape) == 1 else "(rows, then the classes, if any, and y)"
        raise ModelError(f"option model: forward returns {found}, not {expected} {what}")
    if output.dtype != features.dtype:
        raise ModelError(f"option model: forward returns {output.dtype} for {features.dtype}")
    return output


def kinds_of(state_dict: Mapping[str, Any]) -> dict[str, str]:
    """The dtype and shape of each entry of a state_dict."""
    return {name: kind_of(value) for name, value in state_dict.items()}


def require_kinds(kinds: dict[str, str], state_dict: Mapping[str, Any]) -> None:
    """Checks that a state_dict has the same entries as it had when `kinds` was made.

    Raises:
        ModelError: an entry was added or removed, or has another shape or dtype.
    """
    _require_names(kinds.keys(), state_dict.keys())
    for name, kind in kinds_of(state_dict).items():
        if kind != kinds[name]:
            raise ModelError(
                f"option model: forward changes {name!r} from {kinds[name]} to {kind}; an entry of "
                "the state_dict keeps its shape and dtype"
            )


def _require_names(before: AbstractSet[str], after: AbstractSet[str]) -> None:
    for name in sorted(before ^ after):
        verb = "creates" if name in after else "removes"
        raise ModelError(
            f"option model: forward {verb} {name!r}; parameters and buffers are created in __init__"
        )


def _warnings(module: nn.Module, changing: list[str], one: Tensor, other: Tensor) -> list[str]:
    """One sentence for each kind of state; `one` and `other` are outputs for the same rows."""
    generators = generators_of(module)
    changing = [name for name in changing if name not in generators]
    found = []
    if generators:
        found.append(
            f"{listed(generators)}: a random generator of the module's own is in no checkpoint, so "
            "a resumed run can differ; draw from the global generators"
        )
    if changing:
        found.append(
            f"{listed(changing)}: changes in forward and is in no checkpoint; if a later step "
            "depends on it, a resumed run differs: make it a persistent buffer"
        )
    if differing_rows(one, other):
        found.append("in eval mode, two predictions of the same rows differ")
    return found


def _twin_warnings(
    module: nn.Module, twin: nn.Module | None, features: Tensor, expected: Tensor
) -> list[str]:
    """A warning if the same weights give another output in a module that was built again."""
    if twin is None:
        return []
    load_weights(twin, module.state_dict())
    found = _eval_pass(twin, features, expected.shape[1:], seed=1)
    if not differing_rows(expected, found):
        return []
    return [
        "built again with the same weights, it predicts something else, so that its model will not "
        f"be registered: {advice(fingerprints(module), fingerprints(twin))}"
    ]
