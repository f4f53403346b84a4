"""Tabular files: the names of their columns, and their rows, block by block."""

from __future__ import annotations

import csv
import hashlib
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from runback.columns.number import MISSING, not_a_number, number_of
from runback.errors import DataError, first_line

_COUNTED = 1 << 20  # bytes
# Cells in quotes may hold line ends; numbers among them are read like the others.
_PARSE = pacsv.ParseOptions(newlines_in_values=True)
NO_ROW = "has a header but no data row"


def existing(path: str | Path) -> Path:
    """The file that a path names, `~` resolved.

    Raises:
        DataError: there is none, it is a folder, or it is empty.
    """
    if not str(path):
        raise DataError("option data: is empty; a .csv or .parquet file is needed")
    try:
        file = Path(path).expanduser()
        found = file.stat()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:  # no such home folder; a zero byte in the name
        raise DataError(f"{path}: {error}") from None
    if file.is_dir():
        raise DataError(f"{file}: is a folder; a .csv or .parquet file is needed")
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{file}: no file but a pipe or device; a table is read more than once")
    if found.st_size == 0:
        raise DataError(f"{file}: the file is empty")
    return file


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


def most_rows(path: Path) -> int:
    """No file has more rows than this; memory that no row touches is never taken."""
    if _is_parquet(path):
        with _readable(path):
            return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(_COUNTED), b"")
        return 1 + sum(piece.count(b"\n") + piece.count(b"\r") for piece in pieces)


def blocks(
    path: Path, names: Sequence[str], numbers: Sequence[str], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The wanted columns, some rows at a time; those of a CSV that are no `numbers` are text.

    Raises:
        DataError: no table, or a cell of a CSV's `numbers` that is none.
    """
    if _is_parquet(path):
        with _readable(path):
            file = pq.ParquetFile(path, pre_buffer=False)  # buffering ahead would hold all of it
            yield from file.iter_batches(columns=list(wanted))
    else:
        yield from _csv_blocks(path, names, numbers, wanted)


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


def _csv_options(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """How to read the table behind the header; a block must hold a row, and grows with the header."""
    read = pacsv.ReadOptions(
        column_names=list(names),
        skip_rows=_csv_header(path)[1],
        block_size=max(1 << 20, 32 * sum(len(name) + 1 for name in names)),
    )
    return {"read_options": read, "parse_options": _PARSE}


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
        if fault != NO_ROW:  # no block at all, then: the caller knows whether that will do
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
                if number_of(row[place]) is None:
                    return not_a_number(name, number, row[place])
    return "" if number else NO_ROW
