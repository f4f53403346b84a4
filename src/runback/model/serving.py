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
from runback.errors import DataError, UsageError
from runback.model.batched_forward import batched_forward
from runback.model.digests import verify_digests
from runback.model.own_serving import OwnPredictor
from runback.model.own_spec import is_own, load_own
from runback.model.raw_columns import accept_raw_columns
from runback.model.samples import samples_to_tensor
from runback.model.spec import ModelSpec, load_built
from runback.tasks import by_name
from runback.tasks.task import output_of_numbers


class Predictor:
    """A module with its spec, applied to frames, or to samples of more than one dimension."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.module, self.spec = module, spec
        # For `accept_raw_columns`; samples are no columns.
        columns = {column.name: column.raw for column in spec.columns}
        self.raw_types = None if spec.shape else columns

    def predict(
        self, data: Any, params: dict[str, Any] | None = None
    ) -> npt.NDArray[np.floating] | pd.DataFrame:
        """Predictions for raw feature columns, selected by name, or for samples.

        Args:
            data: a frame with at least the feature columns, in any order; or an array of samples
                `[n, *shape]`.
            params: `{"probabilities": True}` adds a column `TARGET=CLASS` for each class.

        Returns:
            `[n]` for one target, as `mlflow.models.evaluate` requires; arrays `[n, *target_shape]` if
            the target is one; otherwise a DataFrame with a column for each target and, where asked
            for, each class.

        Raises:
            DataError: a column is missing, a cell is not of its column's kind, or samples have
                another shape.
        """
        probabilities = bool((params or {}).get("probabilities", False))
        predict = self.predict_samples if self.spec.shape else self.predict_frame
        predicted = predict(data, probabilities=probabilities)
        if self.spec.target_shape:
            return arrays_of(self.spec, predicted)
        single = len(predicted.columns) == 1
        return predicted.iloc[:, 0].to_numpy(copy=True) if single else predicted

    def predict_frame(
        self,
        frame: pd.DataFrame,
        where: str = "table",
        first_row: int = 0,
        probabilities: bool = False,
    ) -> pd.DataFrame:
        """Predictions with the columns of `columns` and the frame's index.

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
        predicted = self._decoded(x, probabilities)
        predicted.index = frame.index
        return predicted

    def predict_samples(self, samples: Any, probabilities: bool = False) -> pd.DataFrame:
        """Predictions with the columns of `columns` and a row for each sample.

        Args:
            samples: an array or a tensor `[n, *shape]`, where `shape` is that of the spec, or
                `[n_features]` if it has none.
            probabilities: adds a column `TARGET=CLASS` for each class.

        Raises:
            DataError: another shape, or a value is not a finite number; or the model takes columns
                that are not all complete numbers.
        """
        if any(column.kind != "number" or column.missing for column in self.spec.columns):
            raise DataError("samples: the model takes the columns of a table; give a DataFrame")
        shape = self.spec.shape or (self.spec.layout.width,)
        x = samples_to_tensor(samples, shape, self.spec.torch_dtype)
        return self._decoded(x, probabilities)

    def _decoded(self, x: Tensor, probabilities: bool) -> pd.DataFrame:
        task, spec = by_name(self.spec.task), self.spec
        if not spec.target_shape:
            return task.decode(self.compute(x), spec.target_columns, probabilities)
        columns = columns_of(spec, probabilities)
        output = output_of_numbers(self.compute(x), spec.target_shape)
        numbers = task.decode(output, spec.target_columns)
        values = numbers.iloc[:, 0].to_numpy()
        return pd.DataFrame(values.reshape(len(x), len(columns)), columns=columns)

    def compute(self, x: Tensor) -> Tensor:
        """The module's output `[n, *output_shape]` for `[n, ...]`, on the CPU; n may be 0."""
        if not len(x):
            return torch.empty((0, *self.spec.output_shape), dtype=self.spec.torch_dtype)
        return batched_forward(self.module, x)


def columns_of(spec: ModelSpec, probabilities: bool) -> list[str]:
    """The columns of predictions: the targets and, where asked for, the classes of each.

    A target that is an array has a column for each of its numbers, such as `y_0_3_7`.

    Raises:
        UsageError: `probabilities` for numbers or for arrays.
    """
    if not spec.target_shape:
        return by_name(spec.task).columns(spec.target_columns, probabilities)
    if probabilities:
        raise UsageError(
            f"option probabilities: the model predicts arrays of the shape {list(spec.target_shape)}; "
            "the module that load_model returns has an output for each class"
        )
    places = np.ndindex(*spec.target_shape)
    return [f"{spec.targets[0]}_{'_'.join(map(str, place))}" for place in places]


def arrays_of(spec: ModelSpec, predicted: pd.DataFrame) -> npt.NDArray[Any]:
    """Predictions of arrays `[n, *target_shape]`, from their columns."""
    return predicted.to_numpy(copy=True).reshape(-1, *spec.target_shape)


def _load_pyfunc(data_path: str) -> Predictor | OwnPredictor:
    """The entry point of mlflow.pyfunc (`loader_module`).

    Raises:
        CheckpointError: a file of the model, or of the copy of runback stored with it, is damaged.
        ModelError: as in `load_built`.
    """
    folder = Path(data_path).resolve()
    package = Path(__file__).resolve().parents[1]
    if package.parents[1] == folder.parents[1]:  # not if runback is installed and imported
        verify_digests(package, "the model's copy of runback", ignored="__pycache__")
    predictor = _of_own_loop(folder) if is_own(folder) else _of_table(folder)
    accept_raw_columns()
    return predictor


def _of_table(folder: Path) -> Predictor:
    built = load_built(folder)
    return Predictor(built.module, built.spec)


def _of_own_loop(folder: Path) -> OwnPredictor:
    own = load_own(folder)
    return OwnPredictor(own.module, own.spec)
