"""Reads and validates tables; errors name the file, the column and the row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from runback.columns.column import Column
from runback.columns.number import number_columns
from runback.columns.tensors import fill, listing, require_columns
from runback.data.files import existing, is_dataset
from runback.data.readers import (
    NO_ROW,
    blocks,
    column_names,
    fingerprint,
    most_rows,
    schema_of,
)
from runback.data.user_dataset import UserDataset, content_fingerprint
from runback.errors import DataError


@dataclass(frozen=True)
class Columns:
    """The feature and target columns of a table, in the order of the tensors."""

    features: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        features: `[n_rows, n_features]`.
        targets: `[n_rows, n_targets]`, same dtype.
        columns: the names of both.
        fingerprint: SHA-256 of the file, in hexadecimal.
        path: of the file, absolute.
        dataset: the user-defined dataset; None for a file.
    """

    features: Tensor
    targets: Tensor
    columns: Columns
    fingerprint: str
    path: Path
    dataset: UserDataset | None = None

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
        DataError: no such file, no rows, duplicate or unknown columns, a feature that is also a
            target, or a cell that is not a finite number.
    """
    if is_dataset(path):
        return _read_dataset(str(path), target, features, dtype)
    file = existing(path)
    names = column_names(file)
    columns = choose_columns(file, names, target, features)
    with ThreadPoolExecutor(1) as executor:  # the digest and the parser both release the GIL
        digest = executor.submit(fingerprint, file)
        x, y = _read_tensors(file, names, columns, dtype)
    return Table(x, y, columns, digest.result(), file.resolve())


def _read_tensors(
    file: Path, names: Sequence[str], columns: Columns, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Features and targets, filled block by block, so that the file is never in memory as a whole."""
    wanted = (*columns.features, *columns.targets)
    parts = (number_columns(columns.features), number_columns(columns.targets))
    most = most_rows(file)
    x, y = (_allocate(file, most, len(part), dtype) for part in parts)
    n_rows = 0
    for block in blocks(file, names, wanted, wanted):
        if n_rows + block.num_rows > most:
            raise DataError(f"{file}: damaged: more rows than its metadata states")
        for part, tensor in zip(parts, (x, y), strict=True):
            _copy_block(file, part, block, tensor, n_rows)
        n_rows += block.num_rows
    if n_rows == 0:
        raise DataError(f"{file}: {NO_ROW}")
    return x[:n_rows], y[:n_rows]


def _allocate(file: Path, n_rows: int, n_columns: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty((n_rows, n_columns), dtype=dtype)
    except RuntimeError:  # torch raises it if memory is short or the size is out of range
        raise DataError(
            f"{file}: {n_rows} rows of {n_columns} columns do not fit in memory"
        ) from None


def _copy_block(
    file: Path, part: Sequence[Column], block: pa.RecordBatch, tensor: Tensor, first: int
) -> None:
    """Copies some columns of a block into the rows of a tensor, beginning with row `first`."""
    fill(file, part, block.column, tensor[first : first + block.num_rows], first)


def _read_dataset(
    data: str, target: Sequence[str], features: Sequence[str], dtype: torch.dtype
) -> Table:
    """Reads all samples; `target` and `features` must be empty or the dataset's own names."""
    dataset = UserDataset(data, dtype)
    x, y = dataset.materialise()
    columns = Columns(dataset.names("feature", x.shape[1]), dataset.names("target", y.shape[1]))
    for option, wanted, own in (
        ("target", tuple(target), columns.targets),
        ("features", tuple(features), columns.features),
    ):
        if wanted and wanted != own:
            raise DataError(
                f"option {option}: {data} has the columns {listing(own)}, in this order"
            )
    return Table(x, y, columns, content_fingerprint(x, y), dataset.path, dataset)


def choose_columns(
    path: Path, names: Sequence[str], target: Sequence[str], features: Sequence[str]
) -> Columns:
    """Fills in the default columns and checks all names against the table.

    Raises:
        DataError: a duplicate or unknown name, a feature that is also a target, or no feature.
    """
    for option, wanted in (("target", target), ("features", features)):
        duplicates = [name for name, count in Counter(wanted).items() if count > 1]
        if duplicates:
            raise DataError(f"option {option}: column {duplicates[0]!r} is named twice")
        require_columns(path, names, wanted, option)
    targets = tuple(target) or (names[-1],)
    chosen = tuple(features) or tuple(name for name in names if name not in targets)
    both = set(targets) & set(chosen)
    if both:
        raise DataError(f"option features: column {sorted(both)[0]!r} is also a target")
    if not chosen:
        raise DataError(f"{path}: no feature column is left; all are targets: {listing(targets)}")
    return Columns(chosen, targets)


def read_parts(
    path: Path, features: Sequence[str], keep: Sequence[str], rows: int
) -> Iterator[pa.Table]:
    """Yields some columns of a CSV or Parquet file in tables of `rows` rows; the last may have fewer.

    Args:
        path: the file; it may be larger than memory.
        features: columns of numbers.
        keep: columns to pass through, in the file's own types; CSV cells stay text.
        rows: of a table.

    Yields:
        At least one table, which has the columns in this order, each once; it is empty if the file
        has no rows. All have the same schema.

    Raises:
        DataError: no such file or column, not a table, or a CSV feature cell that is not a number.
    """
    file = existing(path)
    names = column_names(file)
    require_columns(path, names, features)
    require_columns(path, names, keep, "keep")
    wanted = list(dict.fromkeys((*features, *keep)))
    numbers = [name for name in features if name not in keep]
    schema = schema_of(file, numbers, wanted, keep)
    pending, is_first = schema.empty_table(), True
    for block in blocks(file, names, numbers, wanted):
        columns = [block.column(name) for name in wanted]
        pending = pa.concat_tables([pending, pa.Table.from_arrays(columns, schema=schema)])
        while len(pending) >= rows:
            yield pending.slice(0, rows)
            pending, is_first = pending.slice(rows), False
    if len(pending) or is_first:
        yield pending
