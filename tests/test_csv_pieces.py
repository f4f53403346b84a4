"""The pieces of a CSV file, each parsed alone, have the rows of the file parsed as a whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runback.data import csv_reader
from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.csv_pieces import in_order, row_pieces

HEADER = b"first\n"
MARKS = st.sampled_from([*'",\n\ra \ufeffé', "\r\n", '""', 'a"', '"a\n', 'b"\n', ',"', "a,b\n"])
CELLS = st.text(st.sampled_from(list('ab,"\n\r;\ufeff')), max_size=6)
LONGEST = 3 * (6 * 3 + 3)  # bytes of a row


@given(st.lists(MARKS, max_size=80).map("".join), st.integers(1, 40))
@example('"a\n"\na"\n"b\n"\n', 1)
@example('a","b\nc"\n', 7)
@example(' "a,"b\nc"\n', 8)
@example("a\n\n\n\n\nb\n", 1)
@example("a\n\ufeffb\n\ufeffc", 2)
def test_pieces_of_any_text_have_its_rows(text: str, size: int) -> None:
    data = HEADER + text.encode()
    for n_columns in (1, 2):
        assert _rows_of_pieces(data, size, n_columns) == _rows(data, n_columns, skip_rows=1)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=30), st.integers(1, 60), st.booleans())
def test_pieces_of_quoted_cells_are_certain(
    rows: list[tuple[str, ...]], size: int, is_always_quoted: bool
) -> None:
    data = HEADER + "".join(_line(row, is_always_quoted) for row in rows).encode()
    file = _opened(data)
    pieces = [*row_pieces(file, LONGEST + size, PLAIN)]
    assert file.read() == b""
    assert b"".join(piece[1:] for piece in pieces) == data[len(HEADER) :]
    assert _rows_of_pieces(data, LONGEST + size, 3) == _rows(data, 3, skip_rows=1)


@pytest.mark.parametrize(
    ("text", "pieces", "rest"),
    [
        (b"a\nb\nc\n", [b"\na\nb\n", b"\nc\n", b"\n"], b""),
        (b'"a\nb"\nc\n', [], b'\n"a\nb"\nc\n'),
        (b'a"\nb"\nc\n', [], b'\na"\nb"\nc\n'),
        (b'5,1\n"x"5,"\n', [b"\n5,1\n"], b'\n"x"5,"\n'),
        (b"a\rb\rc\rd\r", [], b"\na\rb\rc\rd\r"),
    ],
)
def test_uncertain_ends_leave_the_rest(text: bytes, pieces: list[bytes], rest: bytes) -> None:
    file = _opened(HEADER + text)
    assert [*row_pieces(file, 4, PLAIN)] == pieces
    assert file.read() == rest


def test_a_file_without_quotes_has_any_quotes_as_text() -> None:
    file = _opened(HEADER + b'a"\nb\n')
    assert [*row_pieces(file, 4, CsvFormat(quote=""))] == [b'\na"\n', b"\nb\n", b"\n"]


def test_results_have_the_order_of_the_pieces() -> None:
    assert [*in_order(lambda n: n * n, iter(range(100)))] == [n * n for n in range(100)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "head", ["a,b", "\ufeffa,b", '"a","b"', '\n\na,"b"', '"a","b\nc"', '"a","b\rc"']
)
@pytest.mark.parametrize("odd_row", ["", '2,t"x', '2,"t\n,"', '2,"t"",""\n"', "2,\ufeff", "\n\n"])
def test_a_file_in_pieces_reads_as_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, head: str, odd_row: str
) -> None:
    rows = [f'{row}.5,"text {row % 7}, \n\ufeff"' for row in range(200)]
    rows[120:120] = [odd_row] if odd_row else []
    path = tmp_path / "table.csv"
    path.write_bytes((head + end + end.join(rows)).encode())
    monkeypatch.setattr(csv_reader, "_block_size", lambda names: 500)
    in_pieces = _blocks(path)
    monkeypatch.setattr(csv_reader, "_skip", lambda file, lines: False)
    assert in_pieces == _blocks(path)
    assert len(in_pieces) == 200 + (odd_row.strip() != "")


def _opened(data: bytes) -> io.BufferedReader:
    file = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    file.readline()
    return file


def _blocks(path: Path) -> list[Any]:
    names, _ = csv_reader.header(path, PLAIN)
    blocks = csv_reader.csv_blocks(path, names, names[:1], names, PLAIN, coded=names[1:])
    return [row for block in blocks for row in block.to_pylist()]


def _line(row: tuple[str, ...], is_always_quoted: bool) -> str:
    cells = [
        '"' + cell.replace('"', '""') + '"'
        if is_always_quoted or set(cell) & set('",\n\r') or not cell
        else cell
        for cell in row
    ]
    return ",".join(cells) + "\n"


def _rows_of_pieces(data: bytes, size: int, n_columns: int) -> list[Any] | None:
    """The rows as `csv_blocks` reads them; None if Arrow refuses one."""
    file, rows = _opened(data), []
    for piece in row_pieces(file, size, PLAIN):
        if piece.strip(b"\r\n"):
            found = _rows(piece, n_columns, block_size=len(piece) + 1)
            if found is None:
                return None
            rows += found
    rest = _rows(file.read(), n_columns)
    return None if rest is None else rows + rest


def _rows(data: bytes, n_columns: int, **read: int) -> list[Any] | None:
    names = [f"x{index}" for index in range(n_columns)]
    try:
        return pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(column_names=names, use_threads=False, **read),
            pacsv.ParseOptions(newlines_in_values=True),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        ).to_pylist()
    except pa.ArrowInvalid as error:
        return [] if "Empty CSV" in str(error) else None
