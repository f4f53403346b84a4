"""What `mlflow.pyfunc` loads: a folder with a model, served as a table-in, predictions-out function.

This module and all it imports travel with the model, so it works where runback is not installed.
It imports no mlflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from runback.columns.tensors import frame_to_tensor
from runback.model.batched_forward import batched_forward
from runback.model.integer_columns import accept_integer_columns
from runback.model.spec import ModelSpec, load_built
from runback.tasks import by_name


class Predictor:
    """A module with the columns it takes and gives."""

    accepts_integer_columns = True  # read by `integer_columns`

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
        found = self.predict_frame(frame)
        return found.iloc[:, 0].to_numpy(copy=True) if len(found.columns) == 1 else found

    def predict_frame(
        self, frame: pd.DataFrame, where: str = "table", first_row: int = 0
    ) -> pd.DataFrame:
        """Predictions with a column for each target and the frame's index.

        Args:
            frame: as in `predict`.
            where: the table's name in an error.
            first_row: how many rows of the table came before, for the row number in an error.
        """
        x = frame_to_tensor(
            frame, self.spec.features, self.spec.torch_dtype, where, first=first_row
        )
        found = by_name(self.spec.task).decode(self.compute(x), self.spec.targets)
        found.index = frame.index
        return found

    def compute(self, x: Tensor) -> Tensor:
        """The module's output `[n, n_outputs]` on the CPU; the module is not called for no rows."""
        if not len(x):
            return torch.empty((0, self.spec.n_outputs), dtype=self.spec.torch_dtype)
        return batched_forward(self.module, x)


def _load_pyfunc(data_path: str) -> Predictor:
    """The entry point that mlflow calls (mlflow.pyfunc, `loader_module`)."""
    built = load_built(Path(data_path))
    accept_integer_columns()
    return Predictor(built.module, built.spec)
