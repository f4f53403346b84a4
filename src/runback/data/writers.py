"""Arrow tables written block by block as CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runback.errors import DataError

_SPECIAL = '[",\r\n]'
_OUT_OF_RANGE = "<value out of range"  # what Arrow writes for a date that its calendar lacks
_HAS_TEXT = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_decimal, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_date, pa.types.is_time, pa.types.is_timestamp,
)  # fmt: skip


def require_text(fields: Sequence[pa.Field]) -> None:
    """Checks that CSV can hold the columns.

    Raises:
        DataError: a column has no exact text: a list, a struct, a map, bytes or a duration.
    """
    for field in fields:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(is_kind(kind) for is_kind in _HAS_TEXT):
            raise DataError(
                f"column {field.name!r} is {field.type}, which has no text in CSV; write a "
                ".parquet file with --output"
            )


def write_csv(tables: Iterator[pa.Table], write: Callable[[str], object]) -> int:
    """Writes tables of one schema as CSV with a header; returns the number of rows.

    Integers, decimals, dates and times are written exactly, floats with the fewest digits that
    parse to the same value. Timestamps with a zone are written in UTC. Missing values are empty.

    Raises:
        DataError: a column or a cell has no text.
    """
    rows = 0
    for number, table in enumerate(tables):
        if number == 0:
            require_text(list(table.schema))
            write(_lines(pa.table([[name] for name in table.column_names], table.column_names), 0))
        write(_lines(table, rows))
        rows += len(table)
    return rows


def write_parquet(tables: Iterator[pa.Table], file: IO[bytes]) -> int:
    """Writes tables of one schema as Parquet; returns the number of rows.

    Raises:
        DataError: Parquet cannot hold a column.
    """
    first = next(tables)
    rows = len(first)
    try:
        with pq.ParquetWriter(file, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)
                rows += len(table)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise DataError(f"the output cannot be written as Parquet: {error}") from None
    return rows


def _lines(table: pa.Table, first: int) -> str:
    """The rows of a table as lines of CSV."""
    if not len(table):
        return ""
    cells = [
        _quoted(text_of(name, column.combine_chunks(), first))
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    lines = pc.binary_join_element_wise(*cells, pa.scalar(",", pa.large_string()))
    return "\n".join(lines.to_pylist()) + "\n"


def text_of(name: str, cells: pa.Array, first: int) -> pa.Array:
    """The cells of a column as text that parses to the same values; missing cells are empty.

    Args:
        name: of the column.
        cells: of a type that `require_text` accepts.
        first: index of the first row in the table, from 0.

    Raises:
        DataError: a date is outside of the calendar.
    """
    if isinstance(cells, pa.ChunkedArray):  # `combine_chunks` of an empty or very large column
        cells = pa.concat_arrays(cells.chunks) if cells.num_chunks else pa.array([], cells.type)
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        # The text of a local time is not exact: it has no seconds of a zone's offset.
        cells = cells.cast(pa.timestamp(kind.unit, "UTC"))
    text = cells.cast(pa.large_string())
    if pa.types.is_floating(kind):  # 1 as 1.0, so that the column stays one of floats
        text = pc.replace_substring_regex(text, r"^(-?[0-9]+)$", r"\1.0")
    if pa.types.is_temporal(kind):
        _require_in_range(name, text, first)
    return text.fill_null("")


def _require_in_range(name: str, text: pa.Array, first: int) -> None:
    wrong = pc.starts_with(text, _OUT_OF_RANGE).fill_null(False)
    if pc.any(wrong).as_py():
        row = first + pc.index(wrong, True).as_py() + 1
        raise DataError(
            f"column {name!r}, data row {row}: a time outside of the calendar has no text in CSV; "
            "write a .parquet file with --output"
        )


def _quoted(text: pa.Array) -> pa.Array:
    """Quotes the cells that CSV cannot hold otherwise, also those with a bare carriage return."""
    special = pc.match_substring_regex(text, _SPECIAL)
    if not pc.any(special).as_py():
        return text
    doubled = pc.replace_substring(text, '"', '""')
    mark = pa.scalar('"', pa.large_string())
    none = pa.scalar("", pa.large_string())
    return pc.if_else(special, pc.binary_join_element_wise(mark, doubled, mark, none), text)
