"""What `mlflow.pyfunc` loads: a folder with a model, served as a table-in, predictions-out function.

This module and all it imports travel with the model, so it works where runback is not installed.
It imports no mlflow.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from runback.columns.tensors import frame_to_tensor
from runback.model.batched_forward import batched_forward
from runback.model.spec import ModelSpec, load_module, load_spec


class Predictor:
    """A module with the columns it takes and gives."""

    takes_any_number = True

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.module, self.spec = module, spec

    def predict(
        self, frame: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.floating] | pd.DataFrame:
        """Predictions for raw feature columns, found by name.

        Args:
            frame: at least the feature columns, in any order; any numeric dtype.
            params: not used; mlflow passes it.

        Returns:
            `[n]` for one target (`mlflow.models.evaluate` needs it so), a DataFrame with a column
            for each target otherwise.

        Raises:
            DataError: a column is missing, or a cell is not a finite number.
        """
        values = self.values(frame)
        if len(self.spec.targets) == 1:
            return values[:, 0]
        return pd.DataFrame(values, columns=list(self.spec.targets), index=frame.index)

    def values(
        self, frame: pd.DataFrame, where: str = "table", first_row: int = 0
    ) -> npt.NDArray[np.floating]:
        """Predictions as `[n, n_targets]`.

        Args:
            frame: as in `predict`.
            where: the table's name in an error.
            first_row: how many rows of the table came before, for the row number in an error.
        """
        x = frame_to_tensor(
            frame, self.spec.features, self.spec.torch_dtype, where, first=first_row
        )
        return self.compute(x).numpy()

    def compute(self, x: Tensor) -> Tensor:
        """The module on `[n, n_features]`, on the CPU; none at all for zero rows."""
        if not len(x):
            return torch.empty((0, len(self.spec.targets)), dtype=self.spec.torch_dtype)
        return batched_forward(self.module, x)


def _load_pyfunc(data_path: str) -> Predictor:
    """The entry point that mlflow calls (mlflow.pyfunc, `loader_module`)."""
    folder = Path(data_path)
    predictor = Predictor(load_module(folder), load_spec(folder))
    _widen_integers()
    return predictor


def _widen_integers() -> None:
    """Lets `PyFuncModel.predict` hand our models integer columns as float64.

    MLflow refuses int64 for a `double` column (0 and 1 apart), and no signature takes both: `Any`
    does, but then the model server refuses CSV. So for the models of this module, and for no other,
    number columns are widened before MLflow looks at them; where mlflow is another than we know,
    its own rule stays.
    """
    model_class = getattr(sys.modules.get("mlflow.pyfunc"), "PyFuncModel", None)
    original = getattr(model_class, "predict", None)
    if model_class is None or original is None or hasattr(original, "widens_for_runback"):
        return

    @functools.wraps(original)
    def predict(self: Any, data: Any, params: dict[str, Any] | None = None) -> Any:
        if hasattr(getattr(self, "_model_impl", None), "takes_any_number"):
            data = _widened(data)
        return original(self, data, params)

    predict.widens_for_runback = True  # type: ignore[attr-defined]
    model_class.predict = predict


def _widened(data: Any) -> Any:
    """A frame, or a dict of columns, with its number columns as float64; anything else as it is."""
    if isinstance(data, dict) and not any(np.isscalar(value) for value in data.values()):
        data = pd.DataFrame(data)
    if not isinstance(data, pd.DataFrame):
        return data
    frame = data.infer_objects()
    names = [n for n in frame.columns if len(frame) == 0 or _is_number(frame[n])]
    return frame.astype(dict.fromkeys(names, "float64"))


def _is_number(column: Any) -> bool:
    return isinstance(column, pd.Series) and pd.api.types.is_numeric_dtype(column)
