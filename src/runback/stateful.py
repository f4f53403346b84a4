"""Objects with `state_dict` and `load_state_dict`, and the position of a training."""

from __future__ import annotations

import copy
import io
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Position(NamedTuple):
    """A position in a training; positions are ordered by time.

    Attributes:
        epoch: completed epochs.
        batch: completed batches of the next epoch; 0 between epochs.
    """

    epoch: int
    batch: int = 0


class Stateful(Protocol):
    """A module, an optimizer, a schedule, or any other object with the same two methods.

    An optional method `snapshot` returns a copy of the state that is never modified. It is used
    instead of a deep copy of `state_dict`.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state, in tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restores a state returned by `state_dict`."""


def snapshot(target: Stateful) -> dict[str, Any]:
    """A copy of an object's state, independent of later changes."""
    copy_state = getattr(target, "snapshot", None)
    state: dict[str, Any] = copy_state() if copy_state is not None else cloned(target.state_dict())
    return state


def cloned(value: Any) -> Any:
    """A deep copy of nested dicts and lists; tensors are cloned on their device."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(cloned(item) for item in value)
    return copy.deepcopy(value)


def require_loadable(state: Any) -> None:
    """Writes and reads a state as a checkpoint does; raises what torch raises."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    torch.load(file, weights_only=True)
