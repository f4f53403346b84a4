"""ModelSpec, the JSON description of a module, and the model folder.

A model folder contains `model.json` (the spec), `model_state_dict.pt` (weights, loaded with
`weights_only=True`), `example.json` (some training rows), for a user-defined module `source/` with
its code, and `digests.json`, the digests of all these files.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from runback.columns.column import Column
from runback.columns.label import LabelColumn
from runback.columns.layout import Layout, columns_from_json, layout_of
from runback.columns.number import number_columns
from runback.errors import CheckpointError, ModelError, first_line
from runback.model.builtin import BUILTIN
from runback.model.digests import verify_digests, write_digests
from runback.model.expanding import Expanded
from runback.model.samples import Flattened, Reshaped, ScaledSamples
from runback.model.scaling import Scaled, TargetScaled
from runback.tasks import NumberTarget, Target, by_name
from runback.user_code import (
    UserClass,
    copy_sources,
    import_class,
    is_user_defined,
    pass_interruptions,
    resolve,
    stored_code,
    unknown_model,
)

FORMAT = 1
MAX_DIMENSIONS = 16
MAX_SIZE = 2**31 - 1
STATE_FILE = "model_state_dict.pt"
SPEC_FILE = "model.json"
EXAMPLE_FILE = "example.json"
SOURCE_FOLDER = "source"


@dataclass(frozen=True)
class ModelSpec:
    """The description of a module, without its weights.

    Attributes:
        task: name of a task (`runback.tasks`).
        model: a built-in name, `package.module:Class` or `file.py:Class`.
        model_args: keyword arguments of the class.
        features: the input columns, in order.
        targets: the predicted columns, in order.
        normalize: none, standard, minmax or quantile.
        dtype: "float32" or "float64", of weights and input.
        labels: for a task of classes, the columns of `targets`; empty for numbers.
        shape: of a sample with more than one dimension, whose only feature is x; otherwise empty.
        target_shape: of the only target, if it is an array of more than one dimension; otherwise
            empty.
        own_module: for a user-defined class, its importable name below `source/`; empty for a
            built-in model and before `build_model`.
        columns: the encoding of each feature; empty if all are complete number columns.
        normalize_target: none or standard.
    """

    task: str
    model: str
    model_args: dict[str, Any]
    features: tuple[str, ...]
    targets: tuple[str, ...]
    normalize: str
    dtype: str
    own_module: str = ""
    columns: tuple[Column, ...] = ()
    labels: tuple[LabelColumn, ...] = ()
    normalize_target: str = "none"
    shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()

    @property
    def layout(self) -> Layout:
        """The columns of the encoded tensor, which is the module's input."""
        return layout_of(self.columns or number_columns(self.features))

    @property
    def target_columns(self) -> tuple[Target, ...]:
        """The columns of `targets`."""
        return self.labels or tuple(map(NumberTarget, self.targets))

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as a torch dtype."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def n_outputs(self) -> int:
        """What the class gets as `n_targets`; see `Task.n_outputs`.

        Raises:
            ModelError: no registered task has the name `task`.
        """
        return by_name(self.task).n_outputs(self.target_columns, self.target_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the module's output for a row: `(n_outputs,)` without arrays.

        Raises:
            ModelError: no registered task has the name `task`.
        """
        return by_name(self.task).output_shape(self.target_columns, self.target_shape)

    def as_json(self) -> dict[str, Any]:
        """The spec as JSON values, with the format version."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns = [column.as_json() for column in self.columns]
        labels = [label.as_json() for label in self.labels]
        return {"format": FORMAT, **plain, "columns": columns, "labels": labels}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ModelSpec:
        """Parses the output of `as_json`.

        Raises:
            ModelError: another format version, or an entry is missing or invalid.
        """
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ModelError(f"{SPEC_FILE}: not a model of format {FORMAT}")
        stored = {"normalize_target": "none", **stored}  # models of earlier versions have none
        for name, is_valid in _ENTRIES.items():
            if name not in stored:
                raise ModelError(f"{SPEC_FILE}: the entry {name!r} is missing")
            if not is_valid(stored[name]):
                raise ModelError(f"{SPEC_FILE}: the entry {name!r} is {stored[name]!r}")
        values = {name: stored[name] for name in _ENTRIES}
        lists = {name: tuple(values[name]) for name in ("features", "targets")}
        columns = _columns(stored.get("columns"), lists["features"])
        labels = _labels(stored.get("labels"), lists["targets"])
        shape = _shape(stored, "shape", not columns)
        target_shape = _shape(stored, "target_shape", len(lists["targets"]) == 1)
        return cls(
            **{**values, **lists},
            columns=columns,
            labels=labels,
            shape=shape,
            target_shape=target_shape,
        )


def _columns(stored: Any, features: tuple[str, ...]) -> tuple[Column, ...]:
    """The stored columns; models of the first version have none.

    Raises:
        ModelError: an invalid description.
    """
    if stored is None or stored == []:
        return ()
    try:
        return columns_from_json(stored, features)
    except ValueError as error:
        raise ModelError(f"{SPEC_FILE}: the entry 'columns' is invalid: {error}") from None


def _labels(stored: Any, targets: tuple[str, ...]) -> tuple[LabelColumn, ...]:
    """The stored classes of the targets; none for numbers.

    Raises:
        ModelError: an invalid description.
    """
    if stored is None or stored == []:
        return ()
    labels = tuple(map(LabelColumn.from_json, stored)) if isinstance(stored, list) else ()
    if tuple(label.name for label in labels) != targets:
        raise ModelError(f"{SPEC_FILE}: the entry 'labels' does not belong to the targets")
    return labels


def _shape(stored: Mapping[str, Any], name: str, fits: bool) -> tuple[int, ...]:
    """A stored shape, if there is one: of a sample, or of a target.

    Raises:
        ModelError: an invalid shape, or one that does not fit the other entries.
    """
    found = stored.get(name)
    if found in (None, [], ()):
        return ()
    is_shape = fits and isinstance(found, list) and 2 <= len(found) <= MAX_DIMENSIONS
    if not is_shape or not all(type(size) is int and 0 < size <= MAX_SIZE for size in found):
        raise ModelError(f"{SPEC_FILE}: the entry {name!r} is {found!r:.80}")
    return tuple(found)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "task": _is_text,
    "model": _is_text,
    "model_args": lambda value: isinstance(value, dict),
    "features": _is_names,
    "targets": _is_names,
    "normalize": lambda value: value in ("none", "standard", "minmax", "quantile"),
    "normalize_target": lambda value: value in ("none", "standard"),
    "dtype": lambda value: value in ("float32", "float64"),
    "own_module": _is_text,
}


@dataclass(frozen=True)
class BuiltModel:
    """A module, its spec, and its user-defined class, if any."""

    module: nn.Module
    spec: ModelSpec
    user_class: UserClass | None


def build_model(spec: ModelSpec, source: Path | None = None) -> BuiltModel:
    """Builds the untrained module of a spec, in train mode on the CPU.

    Args:
        spec: its `own_module` is ignored; the result's spec has the resolved one.
        source: a folder with the user's code; None to import it from its usual location.

    Raises:
        ModelError: an unknown name, code that cannot be imported, invalid arguments, or a module
            without parameters.
    """
    user_class = _user_class(spec.model, source)
    spec = dataclasses.replace(spec, own_module=user_class.code.module if user_class else "")
    module = _assemble(spec, user_class.cls if user_class else _builtin_class(spec.model))
    if not any(p.requires_grad for p in module.parameters()):
        raise ModelError(f"option model: {spec.model} has no parameter to train")
    return BuiltModel(module, spec, user_class)


def save_model(
    folder: Path,
    built: BuiltModel,
    state_dict: dict[str, Tensor],
    rows: Sequence[Sequence[Any]] = (),
) -> str:
    """Writes a model folder: spec, weights, the user's code, example rows, and the digests of all.

    Args:
        folder: created if missing.
        built: the module's spec and class.
        state_dict: the weights, on the CPU.
        rows: of the raw feature columns, for the model's input example.

    Returns:
        The SHA-256 of `digests.json`, which identifies the whole model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict, folder / STATE_FILE)
    write_json(folder / SPEC_FILE, built.spec.as_json())
    example = {"columns": built.spec.features, "data": rows}
    write_json(folder / EXAMPLE_FILE, example)
    if built.user_class is not None:
        copy_sources([built.user_class], folder / SOURCE_FOLDER)
    return write_digests(folder)


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes a file of a model folder."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_spec(folder: Path) -> ModelSpec:
    """Reads the spec of a model folder.

    Raises:
        ModelError: the spec is missing or invalid.
    """
    try:
        stored = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / SPEC_FILE}: cannot be read ({error})") from None
    return ModelSpec.from_json(stored)


def load_built(folder: Path, device: str | torch.device = "cpu", what: str = "") -> BuiltModel:
    """Verifies and loads a model folder written by `save_model`, as `load_verified`.

    Args:
        folder: the model folder.
        device: of the module.
        what: the model's name in errors; empty for the folder.

    Raises:
        CheckpointError: a file is damaged, missing or was added, or the weights are unsafe.
        ModelError: as in `load_verified`.
    """
    verify_digests(folder, what or f"model {folder}")
    return load_verified(folder, device)


def load_verified(folder: Path, device: str | torch.device = "cpu") -> BuiltModel:
    """Loads a model folder that was verified; the module is in eval mode on `device`.

    A user-defined class is always imported from the folder's `source/`.

    Raises:
        CheckpointError: the weights cannot be read, or are unsafe.
        ModelError: the spec or the code is invalid, or the weights do not fit the module.
    """
    spec = load_spec(folder)
    weights = load_tensors(folder / STATE_FILE)
    user_class = None
    if spec.own_module:
        user_class = import_class(stored_code(folder / SOURCE_FOLDER, spec.own_module, spec.model))
    module = _assemble(spec, user_class.cls if user_class else _builtin_class(spec.model))
    load_weights(module, weights)
    return BuiltModel(module.to(device).eval(), spec, user_class)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> Any:
    """`torch.load(weights_only=True)`: tensors and plain values only.

    Raises:
        CheckpointError: the file is missing or damaged, or contains other objects.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # a damaged or hostile file can make torch raise anything
        raise CheckpointError(
            f"{path}: refused as damaged or unsafe ({first_line(error)})"
        ) from None


def load_weights(module: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Checks every entry of a state_dict against a module, then loads it.

    Raises:
        ModelError: an entry is missing, unexpected, or has another shape or dtype; it is named.
    """
    if not isinstance(state_dict, dict):
        raise ModelError(f"weights do not fit: a {type(state_dict).__name__} is not a state_dict")
    expected = module.state_dict()
    for name in sorted(expected.keys() ^ state_dict.keys(), key=str):
        side = "the module has no" if name not in expected else "the stored weights have no"
        raise ModelError(f"weights do not fit: {side} {name!r}")
    for name, tensor in state_dict.items():
        if is_lazy(expected[name]):  # materialized by loading
            continue
        have, want = kind_of(tensor), kind_of(expected[name])
        if have != want:
            raise ModelError(
                f"weights do not fit: {name!r} is stored as {have}, the module has {want}"
            )
    module.load_state_dict(state_dict)


def kind_of(value: Any) -> str:
    """The dtype and shape of a tensor, or the type of another value, as text."""
    return (
        f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    )


def _user_class(model: str, source: Path | None) -> UserClass | None:
    return import_class(resolve(model, source)) if is_user_defined(model) else None


def _builtin_class(model: str) -> type[nn.Module]:
    if model not in BUILTIN:
        raise unknown_model(model, BUILTIN)
    return BUILTIN[model]


def _assemble(spec: ModelSpec, cls: type[nn.Module]) -> nn.Module:
    """The module, with one-hot columns and scaling around it where the spec has them."""
    layout, third = spec.layout, _third_argument(cls)
    takes_columns = third == "columns" and not spec.shape
    n_features = layout.width if takes_columns else layout.one_hot_width
    n_targets = math.prod(spec.output_shape) if spec.model in BUILTIN else spec.n_outputs
    given: tuple[Any, ...] = (math.prod(spec.shape) if spec.shape else n_features, n_targets)
    if takes_columns:
        given = (*given, layout.columns)
    if third == "shape" and spec.shape and third not in spec.model_args:
        given = (*given, spec.shape)
    _check_arguments(cls, spec, given)
    try:
        module = cls(*given, **spec.model_args)
    except BaseException as error:  # a user's __init__ can raise anything
        pass_interruptions(error)
        raise ModelError(
            f"option model_args: {spec.model} refuses {spec.model_args}: {first_line(error)}"
        ) from error
    if spec.target_shape and spec.model in BUILTIN:
        module = Reshaped(module, spec.output_shape)
    if spec.shape:
        module = _for_samples(spec, module)
    elif layout.categories and not takes_columns:
        module = Expanded(layout, module)
    if spec.normalize != "none" and not spec.shape:
        module = Scaled(layout.width, module, spec.normalize)
    if spec.normalize_target != "none":
        module = TargetScaled(1 if spec.target_shape else spec.n_outputs, module)
    return module.to(spec.torch_dtype)


def _for_samples(spec: ModelSpec, module: nn.Module) -> nn.Module:
    """A module on samples of more than one dimension; built-in ones take them flattened."""
    if spec.model in BUILTIN:
        module = Flattened(module)
    return module if spec.normalize == "none" else ScaledSamples(spec.shape[0], module)


def _third_argument(cls: type[nn.Module]) -> str:
    """The name of the third positional argument of a class; empty if it has none."""
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):  # no signature; calling it names the problem
        return ""
    third = parameters[2] if len(parameters) > 2 else None
    if third is None or third.kind not in (third.POSITIONAL_ONLY, third.POSITIONAL_OR_KEYWORD):
        return ""
    return third.name


def _check_arguments(cls: type[nn.Module], spec: ModelSpec, given: tuple[Any, ...]) -> None:
    try:
        inspect.signature(cls).bind(*given, **spec.model_args)
    except TypeError as error:
        names = ("n_features", "n_targets", _third_argument(cls))[: len(given)]
        raise ModelError(
            f"option model_args: {spec.model} is called as "
            f"{cls.__name__}({', '.join(names)}, **model_args): {error}"
        ) from None
