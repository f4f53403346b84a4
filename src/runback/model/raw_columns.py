"""Raw columns for models served by MLflow: the only patch of MLflow in the user's process.

MLflow's schema enforcement (`mlflow.models.utils._enforce_mlflow_datatype`, MLflow 3.17) converts
int8 to int32 to a `double` column, but rejects int64 unless all values are 0 or 1 ("Can not safely
convert int64 to float64"). pandas reads a CSV column of whole numbers as int64, so a model trained
on [0.5, 1, 2] would reject [1, 2, 3]. The rule was discussed in mlflow/mlflow pull request 3798
("Update schema enforcement"); no upstream issue about it is known. No signature accepts both: with
`Any` the model server rejects CSV. In the same way a `string` column rejects numbers, truth values,
pandas' categories and dates, which are the cells of categories and dates in other sources.

Only models of runback are affected: their columns are converted to the types of the signature
before the check. If MLflow has no `PyFuncModel.predict`, its own rule applies.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from runback.columns.cells import text_of, to_arrow
from runback.columns.number import NumberColumn


def accept_raw_columns() -> None:
    """Wraps `PyFuncModel.predict` in this process, once."""
    model_class = getattr(sys.modules.get("mlflow.pyfunc"), "PyFuncModel", None)
    original = getattr(model_class, "predict", None)
    if model_class is None or original is None or hasattr(original, "accepts_raw_columns"):
        return

    @functools.wraps(original)
    def predict(self: Any, data: Any, params: dict[str, Any] | None = None) -> Any:
        raw_types = getattr(getattr(self, "_model_impl", None), "raw_types", None)
        if raw_types is not None:
            data = _converted(data, raw_types)
        return original(self, data, params)

    predict.accepts_raw_columns = True  # type: ignore[attr-defined]
    model_class.predict = predict


def _converted(data: Any, raw_types: Mapping[str, str]) -> Any:
    """A frame or dict of columns with the types of the signature; other data unchanged.

    Args:
        data: the model's input.
        raw_types: "number", "boolean" or "text" by column; a column that is not in it is a number.
    """
    if isinstance(data, dict) and not any(np.isscalar(value) for value in data.values()):
        data = pd.DataFrame(data)
    if not isinstance(data, pd.DataFrame):
        return data
    frame = data.infer_objects()
    converted = {
        name: _column(frame[name], raw_types.get(str(name), "number"))
        for name in frame.columns
        if isinstance(frame[name], pd.Series)
    }
    return frame.assign(**converted) if all(isinstance(n, str) for n in converted) else frame


def _column(cells: pd.Series, raw: str) -> pd.Series:
    if raw == "number":
        if pd.api.types.is_complex_dtype(cells):  # `astype` would drop the imaginary part
            NumberColumn(str(cells.name)).encode(cells, "table", first=0)
        is_number = not len(cells) or pd.api.types.is_numeric_dtype(cells)
        return cells.astype("float64") if is_number else cells
    if raw == "boolean" and pd.api.types.is_bool_dtype(cells):
        return cells
    if raw == "text" and (cells.dtype == object or isinstance(cells.dtype, pd.StringDtype)):
        return cells
    try:
        texts = text_of(to_arrow(cells))
    except TypeError:  # MLflow names the column and its type
        return cells
    return pd.Series(texts, index=cells.index, dtype=object)
