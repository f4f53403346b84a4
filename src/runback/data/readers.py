"""Tabular files: column names, and rows in blocks."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from runback.columns.number import MISSING, not_a_number, number_of
from runback.decoding import decode
from runback.errors import DataError, first_line

_COUNTED = 1 << 20  # bytes
# Quoted cells may contain line breaks.
_PARSE = pacsv.ParseOptions(newlines_in_values=True)
NO_ROW = "has a header but no data row"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def column_names(path: Path) -> list[str]:
    """The names of a file's columns, in order.

    Raises:
        DataError: the file is not a table, has no column, or two columns have the same name.
    """
    with _readable(path):
        names = _parquet_names(path) if _is_parquet(path) else _csv_header(path)[0]
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
    if not _is_parquet(path):
        types = _csv_types(numbers, wanted)
        return pa.schema([(name, types[name]) for name in wanted])
    with _readable(path):
        schema = pq.read_schema(path)
        return pa.schema([schema.field(name) for name in wanted], _described(path, schema, keep))


def most_rows(path: Path) -> int:
    """An upper bound of the file's rows; allocated memory that is never written costs nothing."""
    if _is_parquet(path):
        with _readable(path):
            return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(_COUNTED), b"")
        return 1 + sum(piece.count(b"\n") + piece.count(b"\r") for piece in pieces)


def blocks(
    path: Path, names: Sequence[str], numbers: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yields the wanted columns in blocks of rows; CSV columns not in `numbers` are text.

    Raises:
        DataError: the file is not a table, or a CSV cell in `numbers` is not a number.
    """
    if _is_parquet(path):
        with _readable(path):
            file = pq.ParquetFile(
                path, pre_buffer=False
            )  # pre-buffering would hold the whole file in memory
            yield from file.iter_batches(columns=list(wanted))
    else:
        yield from _csv_blocks(path, names, numbers, wanted)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Converts the readers' errors to one-sentence `DataError`s."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file") from None
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None


def _is_parquet(path: Path) -> bool:
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


def _csv_types(numbers: Sequence[str], wanted: Sequence[str]) -> dict[str, pa.DataType]:
    return dict.fromkeys(wanted, pa.string()) | dict.fromkeys(numbers, pa.float64())


def _csv_header(path: Path) -> tuple[list[str], int]:
    """The column names, and the number of lines up to the end of the header."""
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


def _csv_options(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Options to read the rows after the header; the block size grows with the header's length."""
    read = pacsv.ReadOptions(
        column_names=list(names),
        skip_rows=_csv_header(path)[1],
        block_size=max(1 << 20, 32 * sum(len(name) + 1 for name in names)),
    )
    return {"read_options": read, "parse_options": _PARSE}


def _csv_blocks(
    path: Path, names: Sequence[str], numbers: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The blocks of a CSV file; on an error, the faulty row and cell are located."""
    types = _csv_types(numbers, wanted)
    convert = pacsv.ConvertOptions(
        column_types=types, include_columns=list(wanted), null_values=MISSING
    )
    try:
        with pacsv.open_csv(path, convert_options=convert, **_csv_options(path, names)) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        with _readable(path):
            fault = _first_fault(path, names, numbers)
        if fault != NO_ROW:  # no rows are not an error here: the caller decides
            fault = fault or f"cannot be read as a table ({first_line(error)})"
            raise DataError(f"{path}: {fault}") from None


def _first_fault(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    """Rereads a CSV file as text to find its first invalid row."""
    index_of = {name: index for index, name in enumerate(names)}
    columns = [(index_of[name], name) for name in wanted]
    number = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = (row for row in csv.reader(file) if row)
        next(rows)
        for number, row in enumerate(rows, 1):
            if len(row) != len(names):
                return f"data row {number} has {len(row)} cell(s), the header {len(names)}"
            for index, name in columns:
                if number_of(row[index]) is None:
                    return not_a_number(name, number, row[index])
    return "" if number else NO_ROW
