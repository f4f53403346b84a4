"""Reads a table and refuses what cannot be trained on, naming the file, the column and the row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from runback.data.own_dataset import OwnDataset, content_fingerprint, is_dataset
from runback.errors import DataError

# What pandas and spreadsheets write for "no value"; a training row must not hold any of them.
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>"]
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are inputs and which are outputs, in the order of the tensors."""

    features: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        features: `[n_rows, n_features]`, the dtype asked for.
        targets: `[n_rows, n_targets]`, the same dtype.
        columns: the names behind both.
        fingerprint: SHA-256 of the file's bytes.
        path: the file, absolute.
        dataset: the user's own dataset that the rows came from; None for a file.
    """

    features: Tensor
    targets: Tensor
    columns: Columns
    fingerprint: str
    path: Path
    dataset: OwnDataset | None = None

    def __len__(self) -> int:
        return self.features.shape[0]


def read_table(
    path: str | Path, target: Sequence[str], features: Sequence[str], dtype: torch.dtype
) -> Table:
    """Reads a CSV or Parquet file, or all samples of a user's dataset, into two tensors.

    Args:
        path: the file, or `file.py:Class` or `package.module:Class` of a dataset.
        target: target columns; empty means the last column.
        features: feature columns; empty means all others.
        dtype: of the tensors.

    Raises:
        DataError: no such file, no rows, duplicate or unknown columns, a target among the
            features, or a cell that is not a finite number.
    """
    if is_dataset(path):
        return _read_dataset(str(path), target, features, dtype)
    file = _existing(path)
    names = column_names(file)
    columns = choose_columns(file, names, target, features)
    wanted = (*columns.features, *columns.targets)
    arrays = _read_columns(file, names, wanted)
    count = len(columns.features)
    x = _to_tensor(file, wanted[:count], arrays[:count], dtype)
    y = _to_tensor(file, wanted[count:], arrays[count:], dtype)
    return Table(x, y, columns, fingerprint(file), file.resolve())


def _read_dataset(
    data: str, target: Sequence[str], features: Sequence[str], dtype: torch.dtype
) -> Table:
    """All samples; the columns are the dataset's own, and other names for them are refused."""
    dataset = OwnDataset(data, dtype)
    x, y = dataset.materialise()
    columns = Columns(dataset.names("feature", x.shape[1]), dataset.names("target", y.shape[1]))
    for option, asked, own in (
        ("target", tuple(target), columns.targets),
        ("features", tuple(features), columns.features),
    ):
        if asked and asked != own:
            raise DataError(
                f"option {option}: {data} has the columns {_listing(own)}, in this order"
            )
    return Table(x, y, columns, content_fingerprint(x, y), dataset.path, dataset)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_names(path: Path) -> list[str]:
    """The names of a file's columns, in order.

    Raises:
        DataError: an empty file, one that is no table, or two columns of one name.
    """
    try:
        names = _parquet_names(path) if _is_parquet(path) else _csv_names(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file") from None
    except (pa.ArrowException, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: cannot be read as a table ({_first_line(error)})") from None
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(f"{path}: column {doubled[0]!r} appears more than once")
    return names


def choose_columns(
    path: Path, names: Sequence[str], target: Sequence[str], features: Sequence[str]
) -> Columns:
    """Resolves empty choices and refuses names that do not fit the table."""
    for option, wanted in (("target", target), ("features", features)):
        doubled = [name for name, count in Counter(wanted).items() if count > 1]
        if doubled:
            raise DataError(f"option {option}: column {doubled[0]!r} is named twice")
        require_columns(path, names, wanted, option)
    targets = tuple(target) or (names[-1],)
    chosen = tuple(features) or tuple(name for name in names if name not in targets)
    both = set(targets) & set(chosen)
    if both:
        raise DataError(f"option features: column {sorted(both)[0]!r} is a target as well")
    if not chosen:
        raise DataError(f"{path}: no feature column is left beside the target {', '.join(targets)}")
    return Columns(chosen, targets)


def require_columns(
    path: Path | str, names: Sequence[str], wanted: Sequence[str], option: str = ""
) -> None:
    """Refuses a wanted column that the table does not have, and lists those it has."""
    known = set(names)
    for name in wanted:
        if name not in known:
            where = f" (option {option})" if option else ""
            raise DataError(f"{path}: no column {name!r}{where}; it has {_listing(names)}")


def frame_to_tensor(
    frame: pd.DataFrame, features: Sequence[str], dtype: torch.dtype, where: str = "table"
) -> Tensor:
    """The feature columns of a frame as `[n_rows, n_features]`; column order does not matter.

    Raises:
        DataError: a column is missing, or a cell is not a finite number.
    """
    require_columns(where, [str(name) for name in frame.columns], features)
    arrays = [_numbers(where, name, frame[name]) for name in features]
    return _to_tensor(where, features, arrays, dtype)


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{file}: is a folder; a .csv or .parquet file is needed")
    if not file.exists():
        raise DataError(f"{file}: no such file")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty")
    return file


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _parquet_names(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


def _csv_names(path: Path) -> list[str]:
    header = pd.read_csv(
        path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    names = [str(name).strip() for name in header.iloc[0]]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise DataError(f"{path}: one column {names[0]!r}; columns must be separated by commas")
    if "" in names:
        raise DataError(f"{path}: column {names.index('') + 1} has no name")
    return names


def _read_columns(
    path: Path, names: Sequence[str], wanted: Sequence[str]
) -> list[npt.NDArray[np.float64]]:
    """The wanted columns as float64; the exact cell is looked up only where reading fails."""
    if _is_parquet(path):
        frame = pq.read_table(path, columns=list(wanted)).to_pandas()
        return [_numbers(path, name, frame[name]) for name in wanted]
    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=list(names), skip_rows=1),
            parse_options=pacsv.ParseOptions(newlines_in_values=False),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.float64()),
                include_columns=list(wanted),
                null_values=MISSING,
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise _explain(path, names, wanted, error) from None
    return [table.column(name).to_numpy() for name in wanted]


def _explain(
    path: Path, names: Sequence[str], wanted: Sequence[str], error: Exception
) -> DataError:
    """Reads the file again as text, slowly, to name the first cell that is not a number."""
    try:
        text = pd.read_csv(
            path, header=None, skiprows=1, names=list(names), dtype=str,
            na_values=MISSING, keep_default_na=False, encoding="utf-8-sig", index_col=False,
        )  # fmt: skip
        for name in wanted:
            _numbers(path, name, text[name])
    except UnicodeDecodeError:
        return DataError(f"{path}: not a UTF-8 text file")
    except DataError as found:
        return found
    except (pd.errors.ParserError, ValueError):
        pass
    return DataError(f"{path}: cannot be read as a table ({_first_line(error)})")


def _numbers(where: Path | str, name: str, column: pd.Series) -> npt.NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong.to_numpy())[0])
        raise DataError(
            f"{where}: column {name!r}, data row {row + 1}: {column.iloc[row]!r} is not a number"
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _to_tensor(
    where: Path | str,
    names: Sequence[str],
    arrays: list[npt.NDArray[np.float64]],
    dtype: torch.dtype,
) -> Tensor:
    """Fills one tensor column by column, dropping each source array once it is copied."""
    n_rows = len(arrays[0])
    if n_rows == 0 and isinstance(where, Path):
        raise DataError(f"{where}: has a header but no data row")
    out = torch.empty((n_rows, len(names)), dtype=dtype)
    view = out.numpy()
    for index, name in enumerate(names):
        with np.errstate(over="ignore"):
            view[:, index] = arrays[index]
        _check_finite(where, name, view[:, index], arrays[index])
        arrays[index] = np.empty(0)
    return out


def _check_finite(
    where: Path | str, name: str, stored: npt.NDArray[np.floating], source: npt.NDArray[np.float64]
) -> None:
    finite = np.isfinite(stored)
    if finite.all():
        return
    row = int(np.flatnonzero(~finite)[0])
    value = source[row]
    if np.isnan(value):
        problem = "has no value"
    elif np.isinf(value):
        problem = "is infinite"
    else:
        problem = f"{value!r} does not fit {stored.dtype}"
    raise DataError(f"{where}: column {name!r}, data row {row + 1}: {problem}")


def _listing(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown + (f", ... ({len(names)} columns)" if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_frame(path: Path) -> pd.DataFrame:
    """All columns of a CSV or Parquet file, as they are; for predictions, which check for themselves.

    Raises:
        DataError: no such file, or it is no table.
    """
    file = _existing(path)
    names = column_names(file)
    if _is_parquet(file):
        frame: pd.DataFrame = pq.read_table(file).to_pandas()
        return frame
    return pd.read_csv(
        file, header=None, skiprows=1, names=names, na_values=MISSING, keep_default_na=False,
        encoding="utf-8-sig", index_col=False, float_precision="round_trip",
    )  # fmt: skip
