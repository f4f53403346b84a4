"""The model folder of a module that was registered from an own loop.

It has the files of every model folder (`runback.model.spec`): `model.json`, here with what the module
is built from and what its example says, `model_state_dict.pt`, `example.json`, `source/` with the code
of the user's class, and `digests.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runback.columns.column import Column
from runback.errors import ModelError
from runback.model.digests import verify_digests, write_digests
from runback.model.own_inputs import Example, Inputs
from runback.model.spec import (
    EXAMPLE_FILE,
    SOURCE_FOLDER,
    SPEC_FILE,
    STATE_FILE,
    load_tensors,
    load_weights,
    write_json,
)
from runback.model.structure import build
from runback.user_code import UserClass, copy_sources, import_class, stored_code

KIND = "own loop"
FORMAT = 1


@dataclass(frozen=True)
class OwnSpec:
    """The description of a module of an own loop, without its weights.

    Attributes:
        structure: what it is built from (`runback.model.structure`).
        own_class: "module:Class" of the user's class below `source/`; empty for torch.nn.
        dtype: to which the module is converted after it is built; empty if its weights have several.
        inputs: what it takes.
        outputs: the shape of an output's row `[n, *outputs]`; None if it does not return one tensor
            with a row for each row of the input.
    """

    structure: dict[str, Any]
    own_class: str
    dtype: str
    inputs: Inputs
    outputs: tuple[int, ...] | None

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of the example; empty if it was no frame."""
        return self.inputs.columns

    @property
    def columns(self) -> tuple[Column, ...]:
        """No description of `features`: all are complete number columns."""
        return ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of the predictions; empty if a row of the output is not a list of numbers."""
        if self.outputs is None or len(self.outputs) > 1:
            return ()
        width = self.outputs[0] if self.outputs else 1
        return ("output",) if width == 1 else tuple(f"output_{at}" for at in range(width))

    def as_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        outputs = None if self.outputs is None else list(self.outputs)
        return {
            "kind": KIND,
            "format": FORMAT,
            "structure": self.structure,
            "own_class": self.own_class,
            "dtype": self.dtype,
            "inputs": self.inputs.as_json(),
            "outputs": outputs,
            "targets": list(self.targets),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> OwnSpec:
        """Parses the output of `as_json`.

        Raises:
            ModelError: another format version, or an entry is missing or invalid.
        """
        if stored.get("format") != FORMAT:
            raise ModelError(f"{SPEC_FILE}: not a model of format {FORMAT}")
        structure, outputs = stored.get("structure"), stored.get("outputs")
        own_class, dtype = stored.get("own_class"), stored.get("dtype")
        is_shape = isinstance(outputs, list) and all(type(size) is int for size in outputs)
        for name, is_valid in (
            ("structure", isinstance(structure, dict)),
            ("own_class", isinstance(own_class, str)),
            ("dtype", isinstance(dtype, str) and (not dtype or _dtype(dtype) is not None)),
            ("outputs", outputs is None or is_shape),
        ):
            if not is_valid:
                raise ModelError(f"{SPEC_FILE}: the entry {name!r} is {stored.get(name)!r:.80}")
        inputs = Inputs.from_json(stored.get("inputs"))
        shape = None if outputs is None else tuple(outputs)
        return cls(dict(structure or {}), str(own_class), str(dtype), inputs, shape)


@dataclass(frozen=True)
class OwnModel:
    """A module of an own loop, with its spec."""

    module: nn.Module
    spec: OwnSpec


def is_own(folder: Path) -> bool:
    """Whether a model folder is of a module that was registered from an own loop."""
    try:
        stored = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("kind") == KIND


def save_own(
    folder: Path,
    spec: OwnSpec,
    state_dict: Mapping[str, Any],
    example: Example,
    user_class: UserClass | None,
) -> str:
    """Writes a model folder.

    Args:
        folder: created if missing.
        spec: of the module.
        state_dict: the weights, on the CPU.
        example: its first rows become the model's input example.
        user_class: the user's class, whose source is stored.

    Returns:
        The SHA-256 of `digests.json`, which identifies the whole model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict, folder / STATE_FILE)
    write_json(folder / SPEC_FILE, spec.as_json())
    write_json(folder / EXAMPLE_FILE, {"columns": spec.features, "data": example.rows()})
    if user_class is not None:
        copy_sources([user_class], folder / SOURCE_FOLDER)
    return write_digests(folder)


def load_own(folder: Path, device: str | torch.device = "cpu", what: str = "") -> OwnModel:
    """Verifies and loads a model folder written by `save_own`; see `load_own_verified`.

    Raises:
        CheckpointError: a file is damaged, missing or was added, or the weights are unsafe.
        ModelError: as in `load_own_verified`.
    """
    verify_digests(folder, what or f"model {folder}")
    return load_own_verified(folder, device)


def load_own_verified(folder: Path, device: str | torch.device = "cpu") -> OwnModel:
    """Loads a model folder that was verified; the module is in eval mode on `device`.

    Raises:
        CheckpointError: the weights cannot be read, or are unsafe.
        ModelError: the spec or the code is invalid, or the weights do not fit the module.
    """
    stored = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    spec = OwnSpec.from_json(stored)
    weights = load_tensors(folder / STATE_FILE)
    own = None
    if spec.own_class:
        location = spec.own_class.rpartition(":")[0]
        own = import_class(stored_code(folder / SOURCE_FOLDER, location, spec.own_class)).cls
    module = build(spec.structure, own)
    if spec.dtype:
        module = module.to(_dtype(spec.dtype))
    load_weights(module, weights)
    return OwnModel(module.to(device).eval(), spec)


def dtype_of(module: nn.Module) -> str:
    """The dtype of all floating weights of a module; empty if they have several, or there are none."""
    values = (value for value in module.state_dict().values() if isinstance(value, Tensor))
    found = {value.dtype for value in values if value.is_floating_point()}
    return str(found.pop()).removeprefix("torch.") if len(found) == 1 else ""


def _dtype(name: str) -> torch.dtype | None:
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None
