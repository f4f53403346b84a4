"""The state of a module outside its state_dict: attributes that neither a checkpoint nor a model holds.

What is seen are the attributes of the module and its submodules, also in lists, dicts and objects
of the user's own classes. Globals, closures and the state of C extensions are not seen.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_LIBRARIES = frozenset(
    {"torch", "numpy", "pandas", "builtins", "runback", *sys.stdlib_module_names}
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# The attributes that torch itself gives to every module.
_INTERNAL = vars(nn.Module()).keys()
# Items of one container that are looked at, and the depth of nesting.
MAX_ITEMS = 1000
MAX_DEPTH = 8
MAX_NAMES = 5


def generators_of(module: nn.Module) -> list[str]:
    """The names of the random generators among a module's attributes."""
    return [name for name, value in _values(module) if isinstance(value, GENERATORS)]


def fingerprints(module: nn.Module) -> dict[str, str]:
    """A digest of each value outside the state_dict, by name."""
    return {name: _fingerprint(value) for name, value in _values(module)}


def changed_names(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The names whose values differ in two results of `fingerprints`."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def listed(names: list[str]) -> str:
    """Names in one line, at most `MAX_NAMES` of them."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


class SavedAttributes:
    """A copy of the attributes of a module outside its state_dict.

    An attribute that cannot be copied is not saved.
    """

    def __init__(self, module: nn.Module) -> None:
        memo = {id(part): part for part in _registered(module)}
        self._before = [(part, name, _fingerprint_all(v)) for part, name, v in _owned(module)]
        self._copies: dict[tuple[int, str], Any] = {}
        for part, name, value in _owned(module):
            with contextlib.suppress(Exception):  # a user's object can raise anything
                self._copies[id(part), name] = copy.deepcopy(value, memo)

    def restore(self, module: nn.Module) -> None:
        """Sets the attributes that have changed since, and deletes those that were added."""
        known = {(id(part), name): digest for part, name, digest in self._before}
        for part, name, value in list(_owned(module)):
            if (id(part), name) not in known:
                delattr(part, name)
            elif _fingerprint_all(value) != known[id(part), name]:
                self._put_back(part, name)
        for part, name, _ in self._before:
            if name not in vars(part) and name not in part._buffers:
                self._put_back(part, name)

    def _put_back(self, part: nn.Module, name: str) -> None:
        if (id(part), name) in self._copies:
            target = part._buffers if name in part._buffers else vars(part)
            target[name] = self._copies[id(part), name]


def _owned(module: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """The attributes and non-persistent buffers of a module and its registered submodules."""
    for part in module.modules():
        for name, value in vars(part).items():
            # torch's spectral_norm and pruning compute `weight` from the parameter `weight_orig`.
            if name not in _INTERNAL and f"{name}_orig" not in part._parameters:
                yield part, name, value
        for name in sorted(part._non_persistent_buffers_set):
            if part._buffers.get(name) is not None:
                yield part, name, part._buffers[name]


def _registered(module: nn.Module) -> list[Any]:
    """What the state_dict covers: submodules, parameters and persistent buffers."""
    buffers = [
        buffer
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    ]
    return [*module.modules(), *module.parameters(), *buffers]


def _values(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """All values outside the state_dict, with dotted names."""
    seen = {id(part) for part in _registered(module)}
    prefixes = {id(part): name for name, part in module.named_modules()}
    for part, name, value in _owned(module):
        prefix = prefixes[id(part)]
        yield from _inside(value, f"{prefix}.{name}" if prefix else name, seen, MAX_DEPTH)


def _inside(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """A value and, of containers and the user's objects, the values in it; each object once."""
    if not isinstance(value, _PLAIN):
        if id(value) in seen:
            return
        seen.add(id(value))
    yield name, value
    if depth == 0:
        return
    for part, item in _items(value):
        yield from _inside(item, f"{name}{part}", seen, depth - 1)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r:.40}]", item) for key, item in list(value.items())[:MAX_ITEMS]]
    if isinstance(value, list | tuple | deque):
        return [(f"[{index}]", item) for index, item in enumerate(list(value)[:MAX_ITEMS])]
    if isinstance(value, nn.Module):
        state = {**value._parameters, **value._buffers, **value._modules}
        own = {name: item for name, item in vars(value).items() if name not in _INTERNAL}
        return [(f".{name}", item) for name, item in {**state, **own}.items() if item is not None]
    if type(value).__module__.partition(".")[0] in _LIBRARIES or isinstance(value, type):
        return []
    return [(f".{name}", item) for name, item in getattr(value, "__dict__", {}).items()]


def _fingerprint_all(value: Any) -> str:
    """A digest of a value with all values in it."""
    parts = [(name, _fingerprint(item)) for name, item in _inside(value, "", set(), MAX_DEPTH)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _fingerprint(value: Any) -> str:
    try:
        return hashlib.sha256(_content(value)).hexdigest()
    except Exception:  # a tensor without data, a user's object
        return type(value).__name__


def _content(value: Any) -> bytes:
    """The bytes that identify a value; of an unknown object only its type."""
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().flatten()
        return f"{value.dtype} {value.shape}".encode() + array.view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        data = b"" if value.dtype.hasobject else value.tobytes()
        return f"{value.dtype} {value.shape}".encode() + data
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return repr(value.getstate()).encode()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state).encode()
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False)).encode()
    if isinstance(value, set | frozenset):  # their order differs from process to process
        return f"{type(value).__name__} {sorted(map(repr, value))}".encode()
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}".encode()
    size = len(value) if isinstance(value, dict | list | tuple | deque) else ""
    return f"{type(value).__name__} {size}".encode()
