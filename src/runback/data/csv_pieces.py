"""CSV files in pieces of whole rows, which can be parsed at the same time."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from runback.data.csv_format import CsvFormat

Piece = TypeVar("Piece")
Parsed = TypeVar("Parsed")

# The reader of the pieces uses what they become as fast as about four threads parse them.
_MAX_THREADS = 4


def row_pieces(file: io.BufferedReader, size: int, form: CsvFormat) -> Iterator[bytes]:
    """The rest of a CSV file in pieces of whole rows, each with the line end before its first row.

    Ends early where the ends of rows are not certain, with `file` at the line end before the first
    row that was not yielded. Otherwise `file` is at its end.

    Args:
        file: at the beginning of a row that is not its first one.
        size: of a piece, in bytes.
        form: of the file; its encoding is UTF-8.
    """
    rest = b"\n"
    while read := file.read(size):
        data = rest + read
        end = _end_of_rows(data, form)
        if end == 0:
            file.seek(-len(data), io.SEEK_CUR)
            return
        yield data[: end + 1]
        rest = data[end:]
    yield rest


def in_order(parse: Callable[[Piece], Parsed], pieces: Iterator[Piece]) -> Iterator[Parsed]:
    """What `parse` returns for each piece, in their order; some threads parse ahead."""
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    pending: deque[Future[Parsed]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for piece in pieces:
            pending.append(executor.submit(parse, piece))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _end_of_rows(data: bytes, form: CsvFormat) -> int:
    r"""The index of the last \n that ends a row; 0 if none does with certainty.

    A quote opens a cell only at its beginning; a quote elsewhere outside of quotes is text. `data`
    begins outside of quotes. So if every other quote, from the first on, is at the beginning of a
    cell or right after the one before it (a doubled quote inside of quotes), these quotes open, the
    others close, and a \n is inside of quotes if the number of quotes before it is odd.
    """
    quotes = np.empty(0, np.int64)
    if form.quote:
        codes = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(codes == ord(form.quote))
        before = np.zeros(256, np.bool_)
        before[[*b"\r\n", ord(form.delimiter), ord(form.quote)]] = True
        if not before[codes[quotes[::2] - 1]].all():
            return 0
    end = data.rfind(b"\n")
    while np.searchsorted(quotes, end) % 2:
        end = data.rfind(b"\n", 0, end)
    return end
