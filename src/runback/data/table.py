"""Reads a table and refuses what cannot be trained on, naming the file, the column and the row."""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from runback.data.own_dataset import OwnDataset, content_fingerprint, is_dataset
from runback.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd  # half a second, which a training does not need

# What pandas and spreadsheets write for "no value"; a training row must not hold any of them.
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>"]
MAX_SHOWN = 60
_COUNTED = 1 << 20

Numbers = npt.NDArray[np.float64]


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
    with ThreadPoolExecutor(1) as other:  # neither the digest nor the parser holds Python's lock
        digest = other.submit(fingerprint, file)
        x, y = _read_tensors(file, names, columns, dtype)
    return Table(x, y, columns, digest.result(), file.resolve())


def _read_tensors(
    file: Path, names: Sequence[str], columns: Columns, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Features and targets, filled block by block: the file is never in memory beside them."""
    parts = (columns.features, columns.targets)
    most = _most_rows(file)
    x, y = (_room(file, most, len(part), dtype) for part in parts)
    n_rows = 0
    wanted = (*columns.features, *columns.targets)
    for block in _blocks(file, names, wanted, wanted):
        if n_rows + block.num_rows > most:
            raise DataError(f"{file}: damaged: it holds more rows than it says")
        for part, tensor in zip(parts, (x, y), strict=True):
            _copy_block(file, part, block, tensor, n_rows)
        n_rows += block.num_rows
    if n_rows == 0:
        raise DataError(f"{file}: {_NO_ROW}")
    return x[:n_rows], y[:n_rows]


def _room(file: Path, n_rows: int, n_columns: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty((n_rows, n_columns), dtype=dtype)
    except RuntimeError:  # torch's way to say that there is no memory, or that a size is absurd
        raise DataError(f"{file}: {n_rows} rows of {n_columns} columns do not fit here") from None


def _copy_block(
    file: Path, part: Sequence[str], block: pa.RecordBatch, tensor: Tensor, first: int
) -> None:
    """Copies one part's columns of a block into the rows of a tensor from `first` on."""

    def numbers(name: str) -> Numbers:
        return _arrow_numbers(file, name, block.column(name), first)

    _fill(file, part, numbers, tensor[first : first + block.num_rows], first)


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
    with _readable(path):
        names = _parquet_names(path) if _is_parquet(path) else _csv_header(path)[0]
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
        raise DataError(f"{path}: no feature column is left beside the target {_listing(targets)}")
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
    frame: pd.DataFrame,
    features: Sequence[str],
    dtype: torch.dtype,
    where: str = "table",
    first: int = 0,
) -> Tensor:
    """The feature columns of a frame as `[n_rows, n_features]`; column order does not matter.

    Args:
        frame: a table, or a part of one.
        features: the columns.
        dtype: of the tensor.
        where: the table's name in an error.
        first: the number of the frame's first row in the table, counted from 0.

    Raises:
        DataError: a column is missing, or a cell is not a finite number.
    """
    names = [str(name) for name in frame.columns]
    require_columns(where, names, features)
    place = {name: index for index, name in enumerate(names)}
    doubled = [name for name, count in Counter(names).items() if count > 1 and name in features]
    if doubled:
        raise DataError(f"{where}: column {doubled[0]!r} appears more than once")

    def numbers(name: str) -> Numbers:
        return _frame_numbers(where, name, frame.iloc[:, place[name]], first)

    rows = torch.empty((len(frame), len(features)), dtype=dtype)
    _fill(where, features, numbers, rows, first)
    return rows


def read_parts(
    path: Path, features: Sequence[str], keep: Sequence[str], rows: int
) -> Iterator[pd.DataFrame]:
    """Some columns of a CSV or Parquet file in frames of exactly `rows` rows, the last one fewer.

    Args:
        path: the file; it may be larger than memory.
        features: columns of numbers.
        keep: columns to pass through; from CSV as the text that they are.
        rows: of a part.

    Yields:
        At least one frame; it is empty where the file has no row.

    Raises:
        DataError: no such file or column, no table, or a cell of a CSV feature that is no number;
            its row is counted from the start of the file.
    """
    file = _existing(path)
    names = column_names(file)
    require_columns(path, names, features)
    require_columns(path, names, keep, "keep")
    wanted = list(dict.fromkeys((*features, *keep)))
    waiting, none_yet = pa.table({name: pa.array([], pa.float64()) for name in wanted}), True
    numbers = [name for name in features if name not in keep]
    for block in _blocks(file, names, numbers, wanted):
        table = pa.Table.from_batches([block]).select(wanted)
        waiting = pa.concat_tables([waiting, table]) if len(waiting) else table
        while len(waiting) >= rows:
            yield waiting.slice(0, rows).to_pandas(ignore_metadata=True)
            waiting, none_yet = waiting.slice(rows), False
    if len(waiting) or none_yet:
        yield waiting.to_pandas(ignore_metadata=True)


def _existing(path: str | Path) -> Path:
    if not str(path):
        raise DataError("option data: is empty; a .csv or .parquet file is needed")
    try:
        file = Path(path).expanduser()
        size = file.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:  # no such home folder; a zero byte in the name
        raise DataError(f"{path}: {error}") from None
    if file.is_dir():
        raise DataError(f"{file}: is a folder; a .csv or .parquet file is needed")
    if size == 0:
        raise DataError(f"{file}: the file is empty")
    return file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the readers of files raise into one sentence."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file") from None
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _parquet_names(path: Path) -> list[str]:
    """The columns without what pandas stored as the index of its rows."""
    schema = pq.read_schema(path)
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if name not in index]


def _csv_header(path: Path) -> tuple[list[str], int]:
    """The columns' names, and the number of lines that they and empty lines before them take."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next((row for row in reader if row), [])]
        lines = reader.line_num
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise DataError(f"{path}: one column {names[0]!r}; columns must be separated by commas")
    if not names or "" in names:
        where = f"column {names.index('') + 1}" if names else "the first line"
        raise DataError(
            f"{path}: {where} has no name (is it a row index, which pandas writes without "
            "index=False, or is the header missing?)"
        )
    return names, lines


# Cells in quotes may hold line ends; numbers among them are read like the others.
_PARSE = pacsv.ParseOptions(newlines_in_values=True)
_NO_ROW = "has a header but no data row"


def _csv_options(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """How to read the table behind the header; a block must hold a row, and grows with the header."""
    read = pacsv.ReadOptions(
        column_names=list(names),
        skip_rows=_csv_header(path)[1],
        block_size=max(1 << 20, 32 * sum(len(name) + 1 for name in names)),
    )
    return {"read_options": read, "parse_options": _PARSE}


def _most_rows(path: Path) -> int:
    """No file has more rows than this; memory that no row touches is never taken."""
    if _is_parquet(path):
        with _readable(path):
            return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(_COUNTED), b"")
        return 1 + sum(block.count(b"\n") + block.count(b"\r") for block in blocks)


def _blocks(
    path: Path, names: Sequence[str], numbers: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The wanted columns, some rows at a time; those of a CSV that are no `numbers` are text."""
    if _is_parquet(path):
        with _readable(path):
            file = pq.ParquetFile(path, pre_buffer=False)  # buffering ahead would hold all of it
            yield from file.iter_batches(columns=list(wanted))
    else:
        yield from _csv_blocks(path, names, numbers, wanted)


def _csv_blocks(
    path: Path, names: Sequence[str], numbers: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The blocks of a CSV; where it fails to read, the row and cell are looked up."""
    types = dict.fromkeys(wanted, pa.string()) | dict.fromkeys(numbers, pa.float64())
    convert = pacsv.ConvertOptions(
        column_types=types, include_columns=list(wanted), null_values=MISSING
    )
    try:
        with pacsv.open_csv(path, convert_options=convert, **_csv_options(path, names)) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        with _readable(path):
            fault = _first_fault(path, names, numbers)
        if fault != _NO_ROW:  # no block at all, then: the caller knows whether that will do
            fault = fault or f"cannot be read as a table ({first_line(error)})"
            raise DataError(f"{path}: {fault}") from None


def _first_fault(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    """Reads a CSV again as text, slowly, to find the first row that cannot be used."""
    place_of = {name: place for place, name in enumerate(names)}
    places = [(place_of[name], name) for name in wanted]
    number = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = (row for row in csv.reader(file) if row)
        next(rows)
        for number, row in enumerate(rows, 1):
            if len(row) != len(names):
                return f"data row {number} has {len(row)} cell(s), the header {len(names)}"
            for place, name in places:
                if _number(row[place]) is None:
                    return _not_a_number(name, number, row[place])
    return "" if number else _NO_ROW


def _arrow_numbers(where: Path | str, name: str, column: pa.Array, first: int) -> Numbers:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _frame_numbers(where, name, column.to_pandas(), first)
    column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(math.nan)
    return np.asarray(np.from_dlpack(column), np.float64)  # `to_numpy` would import pandas


def _frame_numbers(where: Path | str, name: str, column: pd.Series, first: int = 0) -> Numbers:
    import pandas as pd

    is_number = pd.api.types.is_numeric_dtype(column)
    if is_number and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.empty(len(column))
    for row, value in enumerate(column):
        number = _number(value)
        if number is None:
            raise DataError(f"{where}: {_not_a_number(name, first + row + 1, value)}")
        numbers[row] = number
    return numbers


def _number(value: Any) -> float | None:
    """A cell as a number, NaN for a missing one; None for anything else."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values
        return math.nan
    if isinstance(value, str):
        if value in MISSING:
            return math.nan
        if "_" in value or not value.isascii():  # Python reads 1_000, tables do not mean it
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _not_a_number(name: str, row: int, value: Any) -> str:
    text = repr(value)
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    return f"column {name!r}, data row {row}: {shown} is not a number"


def _fill(
    where: Path | str,
    names: Sequence[str],
    numbers: Callable[[str], Numbers],
    rows: Tensor,
    first: int = 0,
) -> None:
    """Fills `[n_rows, len(names)]` column by column; `first` is the number of its first row."""
    view = rows.numpy()
    for index, name in enumerate(names):
        source = numbers(name)
        with np.errstate(over="ignore"):
            view[:, index] = source
        _check_finite(where, name, view[:, index], source, first)


def _check_finite(
    where: Path | str,
    name: str,
    stored: npt.NDArray[np.floating],
    source: npt.NDArray[np.float64],
    first: int,
) -> None:
    finite = np.isfinite(stored)
    if finite.all():
        return
    row = int(np.flatnonzero(~finite)[0])
    value = float(source[row])
    if math.isnan(value):
        problem = "has no value"
    elif math.isinf(value):
        problem = "is infinite"
    else:
        problem = f"{value!r} does not fit {stored.dtype}; precision float64 would hold it"
    raise DataError(f"{where}: column {name!r}, data row {first + row + 1}: {problem}")


def _listing(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(_plain(name) for name in names[:most])
    return shown + (f", ... ({len(names)} columns)" if len(names) > most else "")


def _plain(name: str) -> str:
    """A column's name within one line of text."""
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "..."
