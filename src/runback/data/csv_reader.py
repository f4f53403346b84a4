"""CSV files: the header, rows in blocks, and the place of a faulty cell."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from runback.columns.cells import MISSING
from runback.columns.number import not_a_number, number_of
from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.csv_pieces import in_order, row_pieces
from runback.data.files import COMPRESSED
from runback.errors import DataError, first_line

_CODED = pa.dictionary(pa.int32(), pa.string())


def header(path: Path, form: CsvFormat) -> tuple[list[str], int]:
    """The column names, and the number of lines up to the end of the header."""
    with _text(path, form) as file:
        reader = _rows(file, form)
        names = [name.strip() for name in next((row for row in reader if row), [])]
        lines = reader.line_num
    if len(names) == 1:
        _require_delimiter(path, names[0], form)
    if not names or "" in names:
        where = f"column {names.index('') + 1}" if names else "the first line"
        raise DataError(
            f"{path}: {where} has no name (is it a row index, which pandas writes without "
            "index=False, or is the header missing?)"
        )
    return names, lines


def csv_blocks(
    path: Path,
    names: Sequence[str],
    numbers: Sequence[str],
    wanted: Sequence[str],
    form: CsvFormat,
    coded: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """The blocks of a CSV file as Arrow reads them, with its errors.

    Arguments as in `blocks`; the columns in `coded` are dictionaries of texts.
    """
    types = csv_types(numbers, wanted) | dict.fromkeys(coded, _CODED)
    convert = pacsv.ConvertOptions(
        column_types=types,
        include_columns=list(wanted),
        null_values=[*MISSING, *form.null_values],
        decimal_point=form.decimal,
    )
    lines = header(path, form)[1]
    with opened(path) as file, _no_rows_are_no_error(path, form):
        if form.is_utf8 and isinstance(file, io.BufferedReader) and _skip(file, lines):
            yield from _parallel_blocks(file, names, form, convert)
            if not file.peek(1):
                return
            lines = 0
        options = _csv_options(names, form, block_size=_block_size(names), skip_rows=lines)
        with pacsv.open_csv(file, convert_options=convert, **options) as reader:
            yield from reader


def csv_error(
    path: Path, names: Sequence[str], numbers: Sequence[str], form: CsvFormat, error: Exception
) -> DataError:
    """The error for a CSV file that Arrow has refused, with the faulty row and cell."""
    with readable(path, form):
        fault = _first_fault(path, names, numbers, form)
    fault = fault or f"cannot be read as a table ({first_line(error)})"
    return DataError(f"{path}: {fault}")


def text_columns(
    path: Path, names: Sequence[str], wanted: Sequence[str], form: CsvFormat
) -> set[str]:
    """The columns of a CSV file that have a cell which is not a number.

    Those in the first block of rows, if there are any; otherwise those in the whole file.
    """
    found: set[str] = set()
    try:
        for number, block in enumerate(csv_blocks(path, names, (), wanted, form)):
            found |= {n for n in wanted if n not in found and not _are_numbers(block[n], form)}
            if found and (number == 0 or len(found) == len(wanted)):
                break
    except (pa.ArrowException, OSError) as error:
        raise csv_error(path, names, (), form, error) from None
    return found


def csv_types(numbers: Sequence[str], wanted: Sequence[str]) -> dict[str, pa.DataType]:
    """The types in which the columns of a CSV file are read."""
    return dict.fromkeys(wanted, pa.string()) | dict.fromkeys(numbers, pa.float64())


def opened(path: Path) -> Any:
    """A file's bytes, decompressed."""
    if path.suffix.lower() in COMPRESSED:
        return pa.input_stream(str(path), compression="detect")
    return path.open("rb")


def without_nulls(block: pa.RecordBatch, texts: Sequence[str], form: CsvFormat) -> pa.RecordBatch:
    """A block with nulls for the null texts of a format, in some columns."""
    if not form.null_values:
        return block
    nulls = pa.array(form.null_values, pa.string())
    for name in texts:
        index = block.schema.get_field_index(name)
        cells = pc.if_else(pc.is_in(block[name], value_set=nulls), None, block[name])
        block = block.set_column(index, name, cells)
    return block


def _are_numbers(cells: pa.Array, form: CsvFormat) -> bool:
    plain = pc.utf8_trim_whitespace(cells)
    nulls = pa.array([*MISSING, *form.null_values], pa.string())
    plain = pc.if_else(pc.is_in(plain, value_set=nulls), None, plain)
    if form.decimal != ".":
        plain = pc.replace_substring(plain, form.decimal, ".")
    try:
        plain.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


@contextmanager
def _text(path: Path, form: CsvFormat) -> Iterator[IO[str]]:
    """A CSV file as text, without a byte-order mark."""
    encoding = "utf-8-sig" if form.is_utf8 else form.encoding
    with opened(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
        yield text


@contextmanager
def readable(path: Path, form: CsvFormat = PLAIN) -> Iterator[None]:
    """Converts the readers' errors to one-sentence `DataError`s."""
    try:
        yield
    except UnicodeError:
        raise DataError(f"{path}: {_undecodable(form)}") from None
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None


def _undecodable(form: CsvFormat) -> str:
    if form.is_utf8:
        return (
            'not a UTF-8 text file; another encoding is read with --csv \'{"encoding": "latin-1"}\''
        )
    return f"not a {form.encoding} text file (option csv)"


def _rows(file: IO[str], form: CsvFormat) -> Any:
    """A reader of a CSV file's rows as lists of text."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE
    quote = form.quote or None
    return csv.reader(file, delimiter=form.delimiter, quotechar=quote, quoting=quoting)


def _require_delimiter(path: Path, name: str, form: CsvFormat) -> None:
    """Refuses a header of one column that has the delimiter of another format."""
    found = next((mark for mark in ";\t|," if mark in name), None)
    if found is None:
        return
    wanted = "commas" if form.delimiter == "," else repr(form.delimiter)
    option = json.dumps({"delimiter": found})
    raise DataError(
        f"{path}: one column {name!r}; columns must be separated by {wanted}, or read the file with "
        f"--csv '{option}'"
    )


def _skip(file: io.BufferedReader, lines: int) -> bool:
    """Skips the lines of the header; False, at the file's beginning, if one has another end."""
    skipped = b"".join(file.readline() for _ in range(lines))
    if skipped.endswith(b"\n") and skipped.count(b"\r") == skipped.count(b"\r\n"):
        return True
    file.seek(0)
    return False


def _parallel_blocks(
    file: io.BufferedReader, names: Sequence[str], form: CsvFormat, convert: pacsv.ConvertOptions
) -> Iterator[pa.RecordBatch]:
    """The blocks of all rows, or of those up to where `row_pieces` ends early."""

    def parse(piece: bytes) -> pa.Table:
        options = _csv_options(names, form, block_size=len(piece) + 1, use_threads=False)
        return pacsv.read_csv(pa.BufferReader(piece), convert_options=convert, **options)

    pieces = (piece for piece in row_pieces(file, _block_size(names), form) if piece.strip(b"\r\n"))
    for parsed in in_order(parse, pieces):
        yield from parsed.to_batches()


def _block_size(names: Sequence[str]) -> int:
    """The bytes of a block, which grow with the header's length."""
    return max(1 << 20, 32 * sum(len(name) + 1 for name in names))


def _csv_options(names: Sequence[str], form: CsvFormat, **options: Any) -> dict[str, Any]:
    """Options to read rows with these columns; `options` are those of `pacsv.ReadOptions`."""
    read = pacsv.ReadOptions(
        column_names=list(names),
        encoding="utf8" if form.is_utf8 else form.encoding,
        **options,
    )
    # Quoted cells may contain line breaks.
    parse = pacsv.ParseOptions(
        delimiter=form.delimiter,
        quote_char=form.quote or False,
        newlines_in_values=bool(form.quote),
    )
    return {"read_options": read, "parse_options": parse}


@contextmanager
def _no_rows_are_no_error(path: Path, form: CsvFormat) -> Iterator[None]:
    """Ignores Arrow's error for a file without rows: the caller decides."""
    try:
        yield
    except pa.ArrowInvalid:
        with readable(path, form), _text(path, form) as file:
            rows = (row for row in _rows(file, form) if row)
            next(rows, None)
            is_empty = next(rows, None) is None
        if not is_empty:
            raise


def _first_fault(path: Path, names: Sequence[str], wanted: Sequence[str], form: CsvFormat) -> str:
    """Rereads a CSV file as text to find its first invalid row."""
    index_of = {name: index for index, name in enumerate(names)}
    columns = [(index_of[name], name) for name in wanted]
    with _text(path, form) as file:
        rows = (row for row in _rows(file, form) if row)
        next(rows)
        for number, row in enumerate(rows, 1):
            if len(row) != len(names):
                return f"data row {number} has {len(row)} cell(s), the header {len(names)}"
            for index, name in columns:
                if _number_of(row[index], form) is None:
                    return not_a_number(name, number, row[index])
    return ""


def _number_of(cell: str, form: CsvFormat) -> float | None:
    if cell in form.null_values:
        return math.nan
    if form.decimal != "." and "." in cell:
        return None
    return number_of(cell.replace(form.decimal, "."))
