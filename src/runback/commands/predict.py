"""`runback predict`: predictions for a frame, or for a table file of any size."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from runback.commands.load import loading
from runback.data.table import read_parts
from runback.errors import UsageError
from runback.model.batched_forward import CHUNK_ROWS
from runback.model.serving import Predictor
from runback.model.spec import ModelSpec
from runback.storage.atomic import write_atomically


def predict(run: str, frame: pd.DataFrame, device: str = "cpu") -> pd.DataFrame:
    """Predictions for a frame: one column for each target, with the frame's index.

    Args:
        run: RUN in any of its forms.
        frame: at least the feature columns, in any order.
        device: as the option `device`.

    Raises:
        DataError: a feature column is missing, or a cell is not a finite number.
        RunNotFoundError, TrackingError, ModelError, CheckpointError: as in `load_model`.
    """
    with loading(run, device) as loaded:
        return Predictor(loaded.module, loaded.spec).predict_frame(frame)


def predict_file(run: str, data: str, output: str, keep: Sequence[str] = ()) -> int:
    """Writes the predictions for a table: the columns to keep, then one column for each target.

    The table is processed in blocks of `CHUNK_ROWS` rows, so it may be larger than memory. The
    output file is written atomically.

    Args:
        run: RUN in any of its forms.
        data: a .csv or .parquet table; features are selected by name.
        output: a .csv or .parquet file; empty for CSV on standard output.
        keep: columns of the table to copy to the output, such as an ID; CSV cells stay text.

    Returns:
        The number of rows.

    Raises:
        DataError: the table cannot be read, a column is missing, or a feature is not a finite
            number.
        UsageError: an invalid output path, the output is the table, or `keep` has a target or a
            duplicate.
        CheckpointError: the output cannot be written.
        RunNotFoundError, TrackingError, ModelError: as in `load_model`.
    """
    target = _checked_output(output, Path(data).expanduser())
    with loading(run) as loaded:
        _check_keep(keep, loaded.spec)
        frames = _predicted(Predictor(loaded.module, loaded.spec), Path(data), keep)
        if target is None:
            return _write_csv(frames, sys.stdout)
        return _write_file(frames, target)


def _checked_output(output: str, data: Path) -> Path | None:
    if not output:
        return None
    target = Path(output).expanduser()
    if target.is_dir():
        raise UsageError(f"--output {output}: is a folder; give a .csv or .parquet file")
    if not target.parent.is_dir():
        raise UsageError(f"--output {output}: no such folder {target.parent}")
    if target.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise UsageError(f"--output {output}: neither a .csv nor a .parquet file")
    if target.exists() and data.exists() and target.samefile(data):
        raise UsageError(f"--output {output}: is the table itself; use another file")
    return target


def _check_keep(keep: Sequence[str], spec: ModelSpec) -> None:
    if len(set(keep)) < len(keep):
        raise UsageError(f"--keep {','.join(keep)}: names a column twice")
    both = sorted(set(keep) & set(spec.targets))
    if both:
        raise UsageError(f"--keep {both[0]}: the predictions have a column of that name")


def _predicted(predictor: Predictor, data: Path, keep: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The predictions block by block; at least one block, which may be empty."""
    spec, done = predictor.spec, 0
    bar = tqdm(unit=" rows", unit_scale=True, disable=not sys.stderr.isatty(), file=sys.stderr)
    with bar:
        for part in read_parts(data, spec.features, keep, CHUNK_ROWS):
            predicted = predictor.predict_frame(part, str(data), done)
            yield pd.concat([part[list(keep)], predicted], axis=1) if keep else predicted
            done += len(part)
            bar.update(len(part))


def _write_csv(frames: Iterator[pd.DataFrame], file: Any) -> int:
    rows = 0
    for number, frame in enumerate(frames):
        frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")
        rows += len(frame)
    return rows


def _write_parquet(frames: Iterator[pd.DataFrame], file: IO[bytes]) -> int:
    first = next(frames)
    table = pa.Table.from_pandas(first, preserve_index=False)
    rows = len(first)
    with pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, table.schema, preserve_index=False))
            rows += len(frame)
    return rows


def _write_file(frames: Iterator[pd.DataFrame], target: Path) -> int:
    rows: list[int] = []
    is_csv = target.suffix.lower() == ".csv"
    write = _as_text if is_csv else _write_parquet
    write_atomically(target, lambda file: rows.append(write(frames, file)))
    return rows[0]


def _as_text(frames: Iterator[pd.DataFrame], file: IO[bytes]) -> int:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    rows = _write_csv(frames, text)
    text.detach()  # flushes without closing the file
    return rows
