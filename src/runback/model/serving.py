"""The `mlflow.pyfunc` loader: serves a model folder as a function from tables to predictions.

This module and its imports are stored with the model, so that it works without runback installed.
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
from runback.model.digests import verify_digests
from runback.model.raw_columns import accept_raw_columns
from runback.model.spec import ModelSpec, load_built
from runback.tasks import by_name


class Predictor:
    """A module with its spec, applied to frames."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.module, self.spec = module, spec
        self.raw_types = {column.name: column.raw for column in spec.columns}

    def predict(
        self, frame: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.floating] | pd.DataFrame:
        """Predictions for raw feature columns, selected by name.

        Args:
            frame: at least the feature columns, in any order.
            params: `{"probabilities": True}` adds a column `TARGET=CLASS` for each class.

        Returns:
            `[n]` for one target, as `mlflow.models.evaluate` requires; otherwise a DataFrame with a
            column for each target and, where asked for, each class.

        Raises:
            DataError: a column is missing, or a cell is not of its column's kind.
        """
        probabilities = bool((params or {}).get("probabilities", False))
        predicted = self.predict_frame(frame, probabilities=probabilities)
        single = len(predicted.columns) == 1
        return predicted.iloc[:, 0].to_numpy(copy=True) if single else predicted

    def predict_frame(
        self,
        frame: pd.DataFrame,
        where: str = "table",
        first_row: int = 0,
        probabilities: bool = False,
    ) -> pd.DataFrame:
        """Predictions with a column for each target and the frame's index.

        Args:
            frame: as in `predict`.
            where: the table's name in errors.
            first_row: index of the frame's first row in the table, from 0, for errors.
            probabilities: adds a column `TARGET=CLASS` for each class.
        """
        x = frame_to_tensor(
            frame,
            self.spec.features,
            self.spec.torch_dtype,
            where,
            first=first_row,
            columns=self.spec.columns,
        )
        task, targets = by_name(self.spec.task), self.spec.target_columns
        predicted = task.decode(self.compute(x), targets, probabilities)
        predicted.index = frame.index
        return predicted

    def compute(self, x: Tensor) -> Tensor:
        """The module's output `[n, n_outputs]` on the CPU; n may be 0."""
        if not len(x):
            return torch.empty((0, self.spec.n_outputs), dtype=self.spec.torch_dtype)
        return batched_forward(self.module, x)


def _load_pyfunc(data_path: str) -> Predictor:
    """The entry point of mlflow.pyfunc (`loader_module`).

    Raises:
        CheckpointError: a file of the model, or of the copy of runback stored with it, is damaged.
        ModelError: as in `load_built`.
    """
    folder = Path(data_path).resolve()
    package = Path(__file__).resolve().parents[1]
    if package.parents[1] == folder.parents[1]:  # not if runback is installed and imported
        verify_digests(package, "the model's copy of runback", ignored="__pycache__")
    built = load_built(folder)
    accept_raw_columns()
    return Predictor(built.module, built.spec)
