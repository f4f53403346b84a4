"""Integer columns for models served by MLflow: the only patch of MLflow in the user's process.

MLflow's schema enforcement (`mlflow.models.utils._enforce_mlflow_datatype`, MLflow 3.17) converts
int8 to int32 to a `double` column, but rejects int64 unless all values are 0 or 1 ("Can not safely
convert int64 to float64"). pandas reads a CSV column of whole numbers as int64, so a model trained
on [0.5, 1, 2] would reject [1, 2, 3]. The rule was discussed in mlflow/mlflow pull request 3798
("Update schema enforcement"); no upstream issue about it is known. No signature accepts both: with
`Any` the model server rejects CSV.

Only models of runback are affected: their number columns are converted to float64 before the check.
If MLflow has no `PyFuncModel.predict`, its own rule applies.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import pandas as pd

from runback.columns.number import NumberColumn


def accept_integer_columns() -> None:
    """Wraps `PyFuncModel.predict` in this process, once."""
    model_class = getattr(sys.modules.get("mlflow.pyfunc"), "PyFuncModel", None)
    original = getattr(model_class, "predict", None)
    if model_class is None or original is None or hasattr(original, "accepts_integer_columns"):
        return

    @functools.wraps(original)
    def predict(self: Any, data: Any, params: dict[str, Any] | None = None) -> Any:
        if hasattr(getattr(self, "_model_impl", None), "accepts_integer_columns"):
            data = _widened(data)
        return original(self, data, params)

    predict.accepts_integer_columns = True  # type: ignore[attr-defined]
    model_class.predict = predict


def _widened(data: Any) -> Any:
    """A frame or dict of columns with its number columns as float64; other data unchanged.

    Raises:
        DataError: a column of complex numbers.
    """
    if isinstance(data, dict) and not any(np.isscalar(value) for value in data.values()):
        data = pd.DataFrame(data)
    if not isinstance(data, pd.DataFrame):
        return data
    frame = data.infer_objects()
    for name, column in frame.items():
        if pd.api.types.is_complex_dtype(column):  # `astype` would drop the imaginary part
            NumberColumn(str(name)).encode(column, "table", first=0)
    names = [n for n in frame.columns if len(frame) == 0 or _is_number(frame[n])]
    return frame.astype(dict.fromkeys(names, "float64"))


def _is_number(column: Any) -> bool:
    return isinstance(column, pd.Series) and pd.api.types.is_numeric_dtype(column)
