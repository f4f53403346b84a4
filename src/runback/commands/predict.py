"""`runback predict`: predictions for a frame, or for a table file of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runback.columns.number import in_pandas
from runback.columns.tensors import require_columns
from runback.commands.evaluate import with_data_args
from runback.commands.load import Loaded, downloading, loaded_of
from runback.console.epochs import Rows
from runback.console.progress import drawing
from runback.console.streams import write_result
from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.files import is_dataset, object_name
from runback.data.table import read_parts
from runback.data.user_dataset import UserDataset
from runback.data.writers import write_csv, write_parquet
from runback.errors import DataError, UsageError
from runback.model.batched_forward import CHUNK_ROWS
from runback.model.own_serving import OwnPredictor
from runback.model.own_spec import OwnModel, is_own, load_own_verified
from runback.model.serving import Predictor, arrays_of, columns_of
from runback.model.spec import ModelSpec
from runback.storage.atomic import write_atomically
from runback.training.device import choose_device


@overload
def predict(
    run: str,
    frame: pd.DataFrame,
    device: str = ...,
    *,
    keep: Sequence[str] = ...,
    probabilities: bool = ...,
    trust: bool = ...,
) -> pd.DataFrame: ...
@overload
def predict(
    run: str,
    frame: npt.NDArray[Any] | Tensor | Dataset[Any],
    device: str = ...,
    *,
    keep: Sequence[str] = ...,
    probabilities: bool = ...,
    trust: bool = ...,
) -> Any: ...
def predict(
    run: str,
    frame: pd.DataFrame | npt.NDArray[Any] | Tensor | Dataset[Any],
    device: str = "cpu",
    *,
    keep: Sequence[str] = (),
    probabilities: bool = False,
    trust: bool = False,
) -> Any:
    """Predictions for a frame: one column for each target, with the frame's index.

    Returns:
        A DataFrame. For samples, if the model predicts arrays, an array `[n, *shape]`; for a frame
        these have a column for each number.

    Args:
        run: RUN in any of its forms.
        frame: at least the feature columns, in any order; or, for a model that was trained on a
            dataset, an array of samples `[n, ...]` or a dataset.
        device: as the option `device`.
        keep: columns of the frame to put before the predictions, with their dtypes.
        probabilities: adds a column `TARGET=CLASS` for each class.
        trust: as in `load_model`.

    Raises:
        DataError: a feature column or one to keep is missing, a cell is not a finite number, or the
            samples have another shape.
        UsageError: `keep` has a predicted column or a duplicate, or `probabilities` for numbers.
        RunNotFoundError, TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
    """
    chosen = choose_device(device)
    with downloading(run, trust) as found:
        if is_own(found.folder):
            own = load_own_verified(found.folder, chosen)
            return _own_predictions(own, frame, keep, probabilities)
        loaded = loaded_of(found, chosen)
        _check_keep(keep, loaded.spec, probabilities)
        predictor = Predictor(loaded.module, loaded.spec)
        if not isinstance(frame, pd.DataFrame):
            _require_no_keep(keep)
            if isinstance(frame, Dataset):
                name, dtype = object_name(frame), loaded.spec.torch_dtype
                frame, _ = UserDataset(name, dtype, samples=frame).materialise()
            predicted = predictor.predict_samples(frame, probabilities)
            return arrays_of(loaded.spec, predicted) if loaded.spec.target_shape else predicted
        _require_columns(loaded.spec)
        kept = _kept(frame, keep)
        predicted = predictor.predict_frame(frame, probabilities=probabilities)
    return pd.concat([kept, predicted], axis=1) if keep else predicted


def _own_predictions(
    own: OwnModel, data: Any, keep: Sequence[str], probabilities: bool
) -> pd.DataFrame:
    """The predictions of a module that was registered from an own loop."""
    if isinstance(data, Dataset):
        raise DataError("the model was registered from a loop of its own; give an array or a frame")
    _require_new(keep, own.spec.targets)
    if keep and not isinstance(data, pd.DataFrame):
        _require_no_keep(keep)
    kept = _kept(data, keep) if keep else None
    predicted = OwnPredictor(own.module, own.spec).predict_frame(data, probabilities=probabilities)
    return predicted if kept is None else pd.concat([kept, predicted], axis=1)


def predict_file(
    run: str,
    data: str,
    output: str,
    keep: Sequence[str] = (),
    probabilities: bool = False,
    trust: bool = False,
    data_args: Mapping[str, Any] | None = None,
) -> int:
    """Writes the predictions for a table: the columns to keep, then one column for each target.

    The table is processed in blocks of `CHUNK_ROWS` rows, so it may be larger than memory. The
    output file is written atomically.

    Args:
        run: RUN in any of its forms.
        data: a .csv or .parquet table; features are selected by name. Or a dataset, file.py:Class.
        output: a .csv or .parquet file; empty for CSV on standard output.
        keep: columns of the table to copy to the output, such as an ID. They stay what they are:
            the text of CSV cells, and the types of Parquet columns; see `write_csv`.
        probabilities: as in `predict`.
        trust: as in `load_model`.
        data_args: as in `evaluate`.

    Returns:
        The number of rows.

    Raises:
        DataError: the table cannot be read, a column is missing, or a feature is not a finite
            number, or a kept column has no text in CSV.
        UsageError: an invalid output path, the output is the table, or `keep` has a target or a
            duplicate.
        CheckpointError: the output cannot be written.
        RunNotFoundError, TrackingError, TrustError, ModelError: as in `load_model`.
    """
    target = _checked_output(output, Path(data).expanduser())
    with downloading(run, trust) as found:
        if is_own(found.folder):
            own = load_own_verified(found.folder)
            tables = _own_tables(own, data, keep, probabilities)
        else:
            loaded = with_data_args(loaded_of(found, torch.device("cpu")), data, data_args)
            tables = _tables(loaded, data, keep, probabilities)
        if target is None:
            return write_csv(tables, write_result)
        return _write_file(tables, target)


def _tables(
    loaded: Loaded, data: str, keep: Sequence[str], probabilities: bool
) -> Iterator[pa.Table]:
    """The predictions of a run of `train` for a table or a dataset, in blocks."""
    spec = loaded.spec
    _check_keep(keep, spec, probabilities)
    form = CsvFormat.from_option(loaded.config.csv)
    predictor = Predictor(loaded.module, spec)
    if is_dataset(data):
        _require_no_keep(keep)
        samples = UserDataset(data, spec.torch_dtype, loaded.config.data_args)
        return _of_samples(predictor, samples, probabilities)
    _require_columns(spec)
    return _predicted(predictor, Path(data), keep, form, probabilities)


def _own_tables(
    own: OwnModel, data: str, keep: Sequence[str], probabilities: bool
) -> Iterator[pa.Table]:
    """The predictions of a module of an own loop for a table, in blocks.

    Raises:
        DataError: the module was not registered with a frame as its example.
    """
    if not own.spec.features or is_dataset(data):
        raise DataError(
            "the model was registered from a loop of its own and takes files only if its example was a "
            "frame, whose columns they must have; in Python, predict takes arrays"
        )
    _require_new(keep, own.spec.targets)
    predictor = OwnPredictor(own.module, own.spec)
    return _predicted(predictor, Path(data), keep, probabilities=probabilities)


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


def _check_keep(keep: Sequence[str], spec: ModelSpec, probabilities: bool = False) -> None:
    _require_new(keep, columns_of(spec, probabilities))


def _require_new(keep: Sequence[str], columns: Sequence[str]) -> None:
    """Checks the columns to keep against those of the predictions."""
    if len(set(keep)) < len(keep):
        raise UsageError(f"--keep {','.join(keep)}: names a column twice")
    both = sorted(set(keep) & set(columns))
    if both:
        raise UsageError(f"--keep {both[0]}: the predictions have a column of that name")


def _require_columns(spec: ModelSpec) -> None:
    if spec.shape:
        raise DataError(
            f"the model takes samples of the shape {list(spec.shape)}, not a table; give a dataset, "
            "file.py:Class, or in Python an array"
        )


def _require_no_keep(keep: Sequence[str]) -> None:
    if keep:
        raise UsageError(f"--keep {keep[0]}: samples have no columns to keep")


def _of_samples(
    predictor: Predictor, samples: UserDataset, probabilities: bool
) -> Iterator[pa.Table]:
    """The predictions for all samples of a dataset, in one table."""
    x, _ = samples.materialise()
    yield pa.Table.from_pandas(predictor.predict_samples(x, probabilities), preserve_index=False)


def _kept(frame: pd.DataFrame, keep: Sequence[str]) -> pd.DataFrame:
    """The columns to keep, with their dtypes, selected by their names as text."""
    names = [str(name) for name in frame.columns]
    require_columns("table", names, keep, "keep")
    for name in keep:
        if names.count(name) > 1:
            raise DataError(f"table: column {name!r} appears more than once")
    return frame.iloc[:, [names.index(name) for name in keep]]


def _predicted(
    predictor: Predictor | OwnPredictor,
    data: Path,
    keep: Sequence[str],
    form: CsvFormat = PLAIN,
    probabilities: bool = False,
) -> Iterator[pa.Table]:
    """The kept columns and the predictions block by block; at least one block, perhaps empty."""
    spec, done = predictor.spec, 0
    features = list(spec.features)
    with drawing() as line:
        rows = Rows(line)
        for part in read_parts(data, features, keep, CHUNK_ROWS, spec.columns, form):
            frame = pd.DataFrame({name: in_pandas(data, name, part[name]) for name in features})
            predicted = predictor.predict_frame(frame, str(data), done, probabilities)
            yield _beside(part.select(list(keep)), predicted)
            done += len(part)
            rows.add(len(part))


def _beside(kept: pa.Table, predicted: pd.DataFrame) -> pa.Table:
    """One table of the kept columns, unchanged, and the predictions."""
    new = pa.Table.from_pandas(predicted, preserve_index=False)
    schema = pa.schema([*kept.schema, *new.schema], kept.schema.metadata)
    return pa.Table.from_arrays([*kept.columns, *new.columns], schema=schema)


def _write_file(tables: Iterator[pa.Table], target: Path) -> int:
    rows: list[int] = []
    write = _as_text if _is_csv(target) else write_parquet
    write_atomically(target, lambda file: rows.append(write(tables, file)))
    return rows[0]


def _as_text(tables: Iterator[pa.Table], file: IO[bytes]) -> int:
    return write_csv(tables, lambda text: file.write(text.encode()))


def _is_csv(target: Path) -> bool:
    return target.suffix.lower() == ".csv"
