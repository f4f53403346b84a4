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
from torch import nn

from runback.data.table import frame_to_tensor
from runback.models.spec import ModelSpec, load_module, load_spec

CHUNK_ROWS = 65_536


class Predictor:
    """A module with the columns it takes and gives."""

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

    def values(self, frame: pd.DataFrame) -> npt.NDArray[np.floating]:
        """Predictions as `[n, n_targets]`, computed in chunks of `CHUNK_ROWS`."""
        x = frame_to_tensor(frame, self.spec.features, self.spec.torch_dtype)
        device = next(self.module.parameters()).device
        with torch.no_grad():
            parts = [self.module(part.to(device)).cpu() for part in x.split(CHUNK_ROWS)]
        return torch.cat(parts).numpy()


def _load_pyfunc(data_path: str) -> Predictor:
    """The entry point that mlflow calls (mlflow.pyfunc, `loader_module`)."""
    folder = Path(data_path)
    return Predictor(load_module(folder), load_spec(folder))
