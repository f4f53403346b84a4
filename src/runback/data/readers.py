"""Tabular files: column names, and rows in blocks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.csv_reader import (
    csv_blocks,
    csv_error,
    csv_types,
    header,
    opened,
    readable,
    without_nulls,
)
from runback.decoding import decode
from runback.errors import DataError

_COUNTED = 1 << 20  # bytes
NO_ROW = "has a header but no data row"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_names(path: Path, form: CsvFormat = PLAIN) -> list[str]:
    """The names of a file's columns, in order.

    Raises:
        DataError: the file is not a table, has no column, or two columns have the same name.
    """
    with readable(path, form):
        names = _parquet_names(path) if is_parquet(path) else header(path, form)[0]
    if not names:
        raise DataError(f"{path}: has no column, or only the row index that pandas writes")
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise DataError(f"{path}: column {duplicates[0]!r} appears more than once")
    return names


def schema_of(
    path: Path, numbers: Sequence[str], wanted: Sequence[str], keep: Sequence[str]
) -> pa.Schema:
    """The schema of the blocks that `blocks` yields, with pandas' metadata of the columns `keep`.

    Raises:
        DataError: the file is not a table.
    """
    if not is_parquet(path):
        types = csv_types(numbers, wanted)
        return pa.schema([(name, types[name]) for name in wanted])
    with readable(path):
        schema = pq.read_schema(path)
        return pa.schema([schema.field(name) for name in wanted], _described(path, schema, keep))


def most_rows(path: Path) -> int:
    """An upper bound of the file's rows; allocated memory that is never written costs nothing."""
    with readable(path):
        if is_parquet(path):
            return int(pq.read_metadata(path).num_rows)
        with opened(path) as file:
            pieces = (np.frombuffer(p, np.uint8) for p in iter(lambda: file.read(_COUNTED), b""))
            return 1 + sum(
                int(np.count_nonzero(codes == end)) for codes in pieces for end in b"\r\n"
            )


def parquet_types(path: Path) -> dict[str, pa.DataType]:
    """The types of a Parquet file's columns by name.

    Raises:
        DataError: the file is not a Parquet table.
    """
    with readable(path):
        schema = pq.read_schema(path)
    return dict(zip(schema.names, schema.types, strict=True))


def blocks(
    path: Path,
    names: Sequence[str],
    numbers: Sequence[str],
    wanted: Sequence[str],
    form: CsvFormat = PLAIN,
    texts: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yields the wanted columns in blocks of rows; CSV columns not in `numbers` are text.

    Args:
        path: of the file.
        names: all its columns.
        numbers: the columns of a CSV file that are read as numbers.
        wanted: the columns to read.
        form: of a CSV file.
        texts: the columns in which the null texts of `form` are missing values.

    Raises:
        DataError: the file is not a table, or a CSV cell in `numbers` is not a number.
    """
    if is_parquet(path):
        with readable(path):
            file = pq.ParquetFile(
                path, pre_buffer=False
            )  # pre-buffering would hold the whole file in memory
            yield from file.iter_batches(columns=list(wanted))
        return
    try:
        for block in csv_blocks(path, names, numbers, wanted, form):
            yield without_nulls(block, texts, form)
    except (pa.ArrowException, OSError) as error:
        raise csv_error(path, names, numbers, form, error) from None


def is_parquet(path: Path) -> bool:
    """Whether a file is read as Parquet, by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def _parquet_names(path: Path) -> list[str]:
    """The columns without the row index that pandas stores."""
    schema = pq.read_schema(path)
    index = _pandas(path, schema).get("index_columns", [])
    return [name for name in schema.names if name not in index]


def _pandas(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """pandas' metadata; empty if another library wrote the file.

    Raises:
        DataError: it is damaged, so that the row index, which is no feature, is unknown.
    """
    text = (schema.metadata or {}).get(b"pandas", b"{}")
    try:
        stored = decode(json.loads, text.decode())
    except ValueError:
        stored = None
    if isinstance(stored, dict) and isinstance(stored.get("index_columns", []), list):
        return stored
    raise DataError(f"{path}: the metadata of pandas is damaged; write the file again")


def _described(path: Path, schema: pa.Schema, keep: Sequence[str]) -> dict[bytes, bytes]:
    """pandas' metadata without the other columns: it has the dtypes that Arrow does not know."""
    pandas = _pandas(path, schema)
    every = pandas.get("columns")
    if not isinstance(every, list) or not all(isinstance(column, dict) for column in every):
        return {}
    columns = [column for column in every if column.get("field_name") in keep]
    without = {"index_columns": [], "column_indexes": [], "columns": columns}
    return {b"pandas": json.dumps({**pandas, **without}).encode()}
