"""Predictions of a module that was registered from an own loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from runback.errors import DataError, UsageError
from runback.model.batched_forward import batched_forward
from runback.model.own_spec import OwnSpec


class OwnPredictor:
    """A module with its spec, applied to frames or arrays, as mlflow.pyfunc calls it."""

    def __init__(self, module: nn.Module, spec: OwnSpec) -> None:
        self.module, self.spec = module, spec
        # For `accept_raw_columns`: the columns of a frame are numbers, and arrays have none.
        self.raw_types: dict[str, str] | None = {} if spec.features else None

    def predict(
        self, data: Any, params: dict[str, Any] | None = None
    ) -> npt.NDArray[Any] | pd.DataFrame:
        """The module's output.

        Args:
            data: a frame or an array `[n, ...]`, as the registered example was.
            params: none are known.

        Returns:
            For an example that was a frame, `[n]` for one output and a DataFrame for several;
            otherwise the array that the module returns.

        Raises:
            DataError: the input has another shape, or the module returns no single tensor.
        """
        output = self.compute(self.spec.inputs.tensor(data))
        if not (self.spec.features and self.spec.targets):
            return output.numpy()
        frame = self._framed(output)
        return frame.iloc[:, 0].to_numpy(copy=True) if len(frame.columns) == 1 else frame

    def predict_frame(
        self, data: Any, where: str = "table", first_row: int = 0, probabilities: bool = False
    ) -> pd.DataFrame:
        """Predictions with a column for each output, and a frame's index.

        Args:
            data: a frame or an array `[n, ...]`.
            where: the table's name in errors.
            first_row: index of the frame's first row in the table, from 0, for errors.
            probabilities: refused.

        Raises:
            UsageError: the output is no table, or `probabilities` is set.
            DataError: as in `predict`.
        """
        if probabilities:
            raise UsageError("option probabilities: the model predicts numbers, not classes")
        x = self.spec.inputs.tensor(data, where, first_row)
        output = self.compute(x)
        if not self.spec.targets:
            raise UsageError(
                f"predict: the model returns {list(output.shape)}, which is no table; use the module "
                "that runback.load_model returns, or mlflow.pyfunc"
            )
        frame = self._framed(output)
        if hasattr(data, "index") and hasattr(data, "columns"):
            frame.index = data.index
        return frame

    def compute(self, x: Tensor) -> Tensor:
        """The module's output `[n, ...]` for `[n, ...]`, on the CPU; n may be 0."""
        outputs = self.spec.outputs
        if outputs is None:
            raise DataError(
                "the model does not return one tensor with a row for each row of its input; call the "
                "module that runback.load_model returns"
            )
        if len(x):
            return batched_forward(self.module, x)
        return torch.empty((0, *outputs))

    def _framed(self, output: Tensor) -> pd.DataFrame:
        array: npt.NDArray[Any] = np.asarray(output)
        return pd.DataFrame(
            array.reshape(-1, len(self.spec.targets)), columns=list(self.spec.targets)
        )
