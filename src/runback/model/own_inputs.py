"""The input of a module that was registered from an own loop: what its example says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from runback.columns.tensors import frame_to_tensor
from runback.errors import DataError, ModelError
from runback.model.samples import samples_to_tensor

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

# The dtypes that have a tensor signature of MLflow.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.uint8, torch.bool,
    )
}  # fmt: skip
EXAMPLE_ROWS = 5


@dataclass(frozen=True)
class Inputs:
    """What a module takes.

    Attributes:
        kind: "frame" for the columns of a table, "array" for one array or tensor, "several" for a
            tuple or a dict of them, which only `load_model` serves.
        columns: of a frame, in the module's order.
        dtype: of the tensor; empty for several.
        shape: of a row `[n, *shape]`.
    """

    kind: Literal["frame", "array", "several"]
    columns: tuple[str, ...] = ()
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether a row is a list of numbers, which a frame can give."""
        return self.kind != "several" and len(self.shape) == 1

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        lists = {"columns": list(self.columns), "shape": list(self.shape)}
        return {"kind": self.kind, "dtype": self.dtype, **lists}

    @classmethod
    def from_json(cls, stored: Any) -> Inputs:
        """Parses the output of `as_json`.

        Raises:
            ModelError: an entry is missing or invalid.
        """
        try:
            columns, shape = tuple(stored["columns"]), tuple(stored["shape"])
            kind, dtype = stored["kind"], stored["dtype"]
        except (TypeError, KeyError):
            raise ModelError("model.json: the entry 'inputs' is damaged") from None
        is_valid = all(isinstance(name, str) for name in columns) and all(
            type(size) is int and 0 <= size < 2**31 for size in shape
        )
        is_known = kind == "several" or (kind in ("frame", "array") and dtype in DTYPES)
        if not (is_valid and is_known) or (kind == "frame" and shape != (len(columns),)):
            raise ModelError("model.json: the entry 'inputs' is damaged")
        return cls(kind, columns, dtype, shape)

    def tensor(self, data: Any, where: str = "table", first: int = 0) -> Tensor:
        """The module's input `[n, *shape]` on the CPU.

        Args:
            data: a frame, whose columns are selected by name if the example was one, and else taken
                in their order; or an array or a tensor.
            where: the frame's name in errors.
            first: index of the frame's first row in the table, from 0.

        Raises:
            DataError: a column is missing, a cell is not a finite number, or the shape is another.
        """
        if self.kind == "several":
            raise DataError(
                "the model takes several inputs; call the module that runback.load_model returns"
            )
        if self.columns and hasattr(data, "columns"):
            return frame_to_tensor(data, self.columns, DTYPES[self.dtype], where, first)
        array, dtype = _array(data), DTYPES[self.dtype]
        if not dtype.is_floating_point and _is_floating(array):
            raise DataError(f"samples: the model takes {self.dtype}, not {array.dtype}")
        return samples_to_tensor(array, self.shape, dtype)


@dataclass(frozen=True)
class Example:
    """An example input, on the CPU.

    Attributes:
        inputs: what it says about the module's input.
        args: positional arguments of the module.
        kwargs: keyword arguments of the module.
    """

    inputs: Inputs
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def rows(self) -> list[Any]:
        """The first rows as JSON values; none of several inputs."""
        return [] if self.inputs.kind == "several" else self.args[0][:EXAMPLE_ROWS].tolist()


def example_of(example: Any, dtype: torch.dtype) -> Example:
    """The example input of a module.

    Args:
        example: a tensor, an array or a frame of at least one row; or a tuple or a dict of tensors
            and arrays, for positional or keyword arguments.
        dtype: of the module's weights, to which frames and floating arrays are converted.

    Raises:
        ModelError: it is something else, or has no row.
        DataError: a cell of a frame is not a finite number.
    """
    if isinstance(example, Mapping):
        named = {str(name): _tensor(value, dtype, f"[{name!r}]") for name, value in example.items()}
        return Example(Inputs("several"), (), named)
    if isinstance(example, list | tuple):
        values = (_tensor(value, dtype, f"[{at}]") for at, value in enumerate(example))
        return Example(Inputs("several"), tuple(values), {})
    if hasattr(example, "columns") and hasattr(example, "iloc"):
        return _of_frame(example, dtype)
    x = _tensor(example, dtype, "")
    if not x.dim() or not len(x):
        raise ModelError(f"example: has the shape {list(x.shape)}; give at least one row")
    name = str(x.dtype).removeprefix("torch.")
    if name not in DTYPES:
        return Example(Inputs("several"), (x,), {})
    return Example(Inputs("array", (), name, tuple(x.shape[1:])), (x,), {})


def _of_frame(frame: pd.DataFrame, dtype: torch.dtype) -> Example:
    names = tuple(map(str, frame.columns))
    if not len(frame) or not names or len(set(names)) < len(names):
        raise ModelError("example: the frame has no row or column, or two columns of one name")
    dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    x = frame_to_tensor(frame, names, dtype, "example")
    return Example(
        Inputs("frame", names, str(dtype).removeprefix("torch."), (len(names),)), (x,), {}
    )


def _tensor(value: Any, dtype: torch.dtype, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    try:
        if not isinstance(value, np.ndarray):
            raise TypeError
        x = torch.from_numpy(value.copy())
    except TypeError:
        kind = type(value).__name__
        raise ModelError(
            f"example{where}: a {kind} is no tensor, array or frame, nor a tuple or dict of them"
        ) from None
    return x.to(dtype) if x.is_floating_point() else x


def _array(data: Any) -> Tensor | np.ndarray[Any, Any]:
    """The cells of a frame, or an array or a tensor as it is."""
    if isinstance(data, Tensor):
        return data
    try:
        return data.to_numpy() if hasattr(data, "columns") else np.asarray(data)
    except ValueError:  # lists of different lengths
        raise DataError(f"samples: a {type(data).__name__} is not an array of numbers") from None


def _is_floating(array: Tensor | np.ndarray[Any, Any]) -> bool:
    if isinstance(array, Tensor):
        return array.is_floating_point()
    return array.dtype.kind not in "iub"
