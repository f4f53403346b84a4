"""Reads and validates tables; errors name the file, the column and the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runback.columns.column import Column
from runback.columns.label import LabelColumn
from runback.columns.number import number_columns
from runback.columns.tensors import listing, require_columns
from runback.console.progress import say
from runback.data.choose import Columns, choose_columns
from runback.data.classes import encode_classes
from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.encode import encode_features, encode_labels, encode_targets
from runback.data.files import data_name, existing, is_dataset
from runback.data.missing_targets import REFUSE, rows_with_targets
from runback.data.raw import RawTable, Wanted, read_raw
from runback.data.readers import blocks, column_names, fingerprint, schema_of
from runback.data.user_dataset import NO_ARGS, UserDataset, content_fingerprint
from runback.errors import DataError


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        features: `[n_rows, width]`, as the columns encode them; without categories, dates and
            missing numbers, `[n_rows, n_features]`. Of a user-defined dataset also `[n_rows, ...]`.
        targets: `[n_rows, n_targets]`, same dtype; codes of classes are int64. Of a user-defined
            dataset also `[n_rows, ...]`.
        columns: the names of both.
        fingerprint: SHA-256 of the file, in hexadecimal.
        path: of the file, absolute.
        encoders: the description of the features; empty for a user-defined dataset.
        dataset: the user-defined dataset; None for a file.
        left_out: rows of the file that are not in the table, as they have no target.
    """

    features: Tensor
    targets: Tensor
    columns: Columns
    fingerprint: str
    path: Path
    encoders: tuple[Column, ...] = ()
    dataset: UserDataset | None = None
    left_out: int = 0

    @property
    def name(self) -> str:
        """The file's name without its endings."""
        return data_name(self.path)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of the features of a row, if it has more than one dimension; otherwise empty."""
        return _shape_of(self.features)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of the target of a row, if it has more than one dimension; otherwise empty."""
        return _shape_of(self.targets)

    def __len__(self) -> int:
        return self.features.shape[0]


def _shape_of(rows: Tensor) -> tuple[int, ...]:
    return tuple(rows.shape[1:]) if rows.dim() > 2 else ()


def read_table(
    path: str | Path,
    target: Sequence[str],
    features: Sequence[str],
    dtype: torch.dtype,
    columns: Sequence[Column] = (),
    form: CsvFormat = PLAIN,
    labels: Sequence[LabelColumn] = (),
    missing_target: str = REFUSE,
    args: Mapping[str, Any] = NO_ARGS,
) -> Table:
    """Reads a CSV or Parquet file, or all samples of a user's dataset, into two tensors.

    Args:
        path: the file, or `file.py:Class` or `package.module:Class` of a dataset.
        target: target columns; empty means the last column.
        features: feature columns; empty means all others.
        dtype: of the tensors.
        columns: the description of `features`; empty if all are complete number columns.
        form: of a CSV file.
        labels: the classes of the targets; empty for numbers.
        missing_target: what becomes of rows without a target, "refuse" or "drop".
        args: of a dataset's class; not used for a file.

    Raises:
        DataError: no such file, no rows, duplicate or unknown columns, a feature that is also a
            target, a row without a target, or a cell that is not of its column's kind.
    """
    if is_dataset(path):
        return read_dataset(str(path), target, features, dtype, labels, args)
    file = existing(path)
    names = column_names(file, form)
    chosen = choose_columns(file, names, target, features)
    described = tuple(columns) or number_columns(chosen.features)
    as_cells = frozenset(column.name for column in described if column.raw != "number")
    as_cells |= frozenset(label.name for label in labels)
    raw = read_raw(Wanted(file, names, chosen, as_cells=as_cells, form=form), dtype)
    kept = rows_with_targets(raw, missing_target)
    return encoded_table(raw, described, dtype, labels, kept)


def tell_left_out(table: Table) -> None:
    """Says how many rows have no target and are left out, if any."""
    if table.left_out:
        total = table.left_out + len(table)
        say(f"left out, as they have no target: {table.left_out} of {total} rows")


def fingerprint_of(data: str, dtype: torch.dtype, args: Mapping[str, Any] = NO_ARGS) -> str:
    """SHA-256 of a table file, or of all samples of a dataset with these arguments in a dtype.

    Raises:
        DataError: no such file, or the dataset cannot be read.
    """
    if is_dataset(data):
        return read_dataset(data, (), (), dtype, args=args).fingerprint
    return fingerprint(existing(data))


def encoded_table(
    raw: RawTable,
    columns: Sequence[Column],
    dtype: torch.dtype,
    labels: Sequence[LabelColumn] = (),
    kept: Tensor | None = None,
) -> Table:
    """A table as tensors, of the described features only; the cells of `raw` are freed.

    Args:
        raw: the table.
        columns: the description of the features.
        dtype: of the features, and of targets that are numbers.
        labels: the classes of the targets; empty for numbers.
        kept: sorted row numbers `[n_kept]`, from `rows_with_targets`; None for all rows.

    Raises:
        DataError: a cell is not of its column's kind, or a target is not a finite number.
    """
    targets = encode_labels(raw, labels) if labels else encode_targets(raw, dtype)
    features = encode_features(raw, columns, dtype)
    names = Columns(tuple(column.name for column in columns), raw.columns.targets)
    left_out = 0 if kept is None else len(raw) - len(kept)
    if kept is not None:
        features, targets = features.index_select(0, kept), targets.index_select(0, kept)
    return Table(
        features, targets, names, raw.fingerprint, raw.path, tuple(columns), left_out=left_out
    )


def read_dataset(
    data: str,
    target: Sequence[str],
    features: Sequence[str],
    dtype: torch.dtype,
    labels: Sequence[LabelColumn] = (),
    args: Mapping[str, Any] = NO_ARGS,
    samples: Dataset[Any] | None = None,
) -> Table:
    """Reads all samples; `target` and `features` must be empty or the dataset's own names.

    The targets are the codes of classes if `labels` are given, else int64 if all are whole numbers.
    Features of more than one dimension have one name, x; such targets have one, by default y.
    """
    dataset = UserDataset(data, dtype, args, samples)
    x, y = dataset.materialise()
    names = ("x",) if x.dim() > 2 else dataset.names("feature", x.shape[1], features)
    is_array = y.dim() > 2
    targets = dataset.names("target", 1 if is_array else y.shape[1], target or ("y",) * is_array)
    columns = Columns(names, targets)
    for option, wanted, own in (
        ("target", tuple(target), columns.targets),
        ("features", tuple(features), columns.features),
    ):
        if wanted and wanted != own:
            raise DataError(
                f"option {option}: {data} has the columns {listing(own)}, in this order"
            )
    fingerprint = content_fingerprint(x, y.to(dtype))
    codes = encode_classes(data, labels, y) if labels else y
    return Table(x, codes, columns, fingerprint, dataset.path, dataset=dataset)


def read_parts(
    path: Path,
    features: Sequence[str],
    keep: Sequence[str],
    rows: int,
    columns: Sequence[Column] = (),
    form: CsvFormat = PLAIN,
) -> Iterator[pa.Table]:
    """Yields some columns of a CSV or Parquet file in tables of `rows` rows; the last may have fewer.

    Args:
        path: the file; it may be larger than memory.
        features: the columns to predict from.
        keep: columns to pass through, in the file's own types; CSV cells stay text.
        rows: of a table.
        columns: the description of `features`; empty if all are number columns.
        form: of a CSV file.

    Yields:
        At least one table, which has the columns in this order, each once; it is empty if the file
        has no rows. All have the same schema.

    Raises:
        DataError: no such file or column, not a table, or a CSV feature cell that is not a number.
    """
    file = existing(path)
    names = column_names(file, form)
    require_columns(path, names, features)
    require_columns(path, names, keep, "keep")
    wanted = list(dict.fromkeys((*features, *keep)))
    texts = {column.name for column in columns if column.raw != "number"}
    numbers = [name for name in features if name not in keep and name not in texts]
    nulls = [name for name in texts if name not in keep]
    schema = schema_of(file, numbers, wanted, keep)
    pending, is_first = schema.empty_table(), True
    for block in blocks(file, names, numbers, wanted, form, nulls):
        columns = [block.column(name) for name in wanted]
        pending = pa.concat_tables([pending, pa.Table.from_arrays(columns, schema=schema)])
        while len(pending) >= rows:
            yield pending.slice(0, rows)
            pending, is_first = pending.slice(rows), False
    if len(pending) or is_first:
        yield pending
