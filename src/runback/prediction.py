"""Predictions for a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from runback.data.table import read_frame
from runback.reading import predict


def predict_file(run: str, data: str, output: str) -> None:
    """Writes the predictions for a table as CSV, to a file or to standard output.

    Raises:
        DataError: the table cannot be read, lacks a feature column, or holds no finite number.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `reading.load_model`.
    """
    found: pd.DataFrame = predict(run, read_frame(Path(data)))
    found.to_csv(output or sys.stdout, index=False)
