"""A table's cells before they are encoded: numbers in tensors, other cells in Arrow arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from runback.columns.cells import is_number, to_arrow
from runback.columns.number import number_columns
from runback.columns.tensors import fill
from runback.data.choose import Columns
from runback.data.csv_format import PLAIN, CsvFormat
from runback.data.csv_reader import csv_blocks, csv_error, text_columns, without_nulls
from runback.data.readers import NO_ROW, blocks, fingerprint, is_parquet, most_rows, parquet_types
from runback.errors import DataError


@dataclass
class RawTable:
    """The cells of a table.

    Attributes:
        path: of the file, absolute.
        fingerprint: SHA-256 of the file, in hexadecimal.
        columns: the names of features and targets.
        numbers: features and targets that are read as numbers; NaN is a missing cell.
        cells: all other columns, as Arrow arrays; texts are dictionaries.
        incomplete: the number columns, also of targets, with missing cells.
    """

    path: Path
    fingerprint: str
    columns: Columns
    numbers: tuple[NumberCells, NumberCells]
    cells: dict[str, pa.Array]
    incomplete: set[str]

    def __len__(self) -> int:
        return len(self.numbers[0].tensor)

    def column(self, name: str) -> Any:
        """The cells of a column: `[n_rows]`, a numpy array of numbers or an Arrow array."""
        for part in self.numbers:
            if name in part.names:
                return part.tensor[:, part.names.index(name)].numpy()
        return self.cells[name]


@dataclass(frozen=True)
class NumberCells:
    """Number columns: their names and `[n_rows, n_columns]`."""

    names: tuple[str, ...]
    tensor: Tensor


@dataclass(frozen=True)
class Wanted:
    """The columns to read from a file.

    Attributes:
        file: the path.
        names: all columns of the file.
        columns: the features and targets.
        others: columns that are read as cells, such as one that defines the split.
        as_cells: the features and targets that are not read as numbers.
        strict: whether a number column with other cells is an error; otherwise it is read as cells.
        form: of a CSV file.
    """

    file: Path
    names: Sequence[str]
    columns: Columns
    others: tuple[str, ...] = ()
    as_cells: frozenset[str] = field(default_factory=frozenset)
    strict: bool = True
    form: CsvFormat = PLAIN

    @property
    def used(self) -> tuple[str, ...]:
        """All columns to read, each once."""
        return tuple(dict.fromkeys((*self.columns.features, *self.columns.targets, *self.others)))


def read_raw(wanted: Wanted, dtype: torch.dtype) -> RawTable:
    """Reads some columns of a CSV or Parquet file.

    Args:
        wanted: the file and its columns.
        dtype: of the numbers.

    Raises:
        DataError: the file is not a table or has no rows, or a cell is infinite or not a number.
    """
    with ThreadPoolExecutor(1) as executor:  # the digest and the parser both release the GIL
        digest = executor.submit(fingerprint, wanted.file)
        reading = _read(wanted, dtype)
        return reading.table(digest.result())


class _Reading:
    """Blocks of rows, collected column by column, so that the file is never in memory as a whole."""

    def __init__(
        self, wanted: Wanted, as_cells: Collection[str], dtype: torch.dtype, most: int
    ) -> None:
        self.wanted, self.most, self.n_rows = wanted, most, 0
        self.names = [
            tuple(name for name in part if name not in as_cells)
            for part in (wanted.columns.features, wanted.columns.targets)
        ]
        self.tensors = [_allocate(wanted.file, self.most, len(n), dtype) for n in self.names]
        self.chunks: dict[str, list[pa.Array]] = {
            name: [] for name in wanted.used if not any(name in names for names in self.names)
        }
        self.incomplete: set[str] = set()

    @property
    def number_names(self) -> list[str]:
        """All columns that are read as numbers."""
        return [name for names in self.names for name in names]

    def add(self, block: pa.RecordBatch) -> None:
        """Adds the rows of a block."""
        first = self.n_rows
        self.n_rows += block.num_rows
        if self.n_rows > self.most:
            raise DataError(f"{self.wanted.file}: damaged: more rows than its metadata states")
        file, missing = self.wanted.file, self.incomplete
        for names, tensor in zip(self.names, self.tensors, strict=True):
            rows = tensor[first : self.n_rows]
            fill(file, number_columns(names), block.column, rows, first, missing=missing)
        for name, chunks in self.chunks.items():
            chunks.append(_compact(block.column(name)))

    def table(self, digest: str) -> RawTable:
        """The table of all rows.

        Raises:
            DataError: there are none.
        """
        if self.n_rows == 0:
            raise DataError(f"{self.wanted.file}: {NO_ROW}")
        features, targets = (
            NumberCells(names, tensor[: self.n_rows])
            for names, tensor in zip(self.names, self.tensors, strict=True)
        )
        cells = {}
        for name in list(self.chunks):
            cells[name] = to_arrow(pa.chunked_array(self.chunks.pop(name)))
        columns, path = self.wanted.columns, self.wanted.file.resolve()
        return RawTable(path, digest, columns, (features, targets), cells, self.incomplete)


def _read(wanted: Wanted, dtype: torch.dtype) -> _Reading:
    most = most_rows(wanted.file)
    if is_parquet(wanted.file):
        reading = _Reading(wanted, _parquet_cells(wanted), dtype, most)
        for block in blocks(wanted.file, wanted.names, (), wanted.used):
            reading.add(block)
        return reading
    return _read_csv(wanted, dtype, most)


def _parquet_cells(wanted: Wanted) -> set[str]:
    """The columns of a Parquet file that are not numbers."""
    if wanted.strict:
        return set(wanted.as_cells)
    types = parquet_types(wanted.file)
    return {*wanted.as_cells, *(name for name in wanted.used if not is_number(types[name]))}


def _read_csv(wanted: Wanted, dtype: torch.dtype, most: int) -> _Reading:
    """Reads a CSV file; columns turn out to have cells that are not numbers at most twice."""
    file, names, form = wanted.file, wanted.names, wanted.form
    as_cells = set(wanted.as_cells)
    while True:
        reading = _Reading(wanted, as_cells, dtype, most)
        try:
            for block in _csv_blocks(wanted, reading):
                reading.add(block)
            return reading
        except (pa.ArrowException, OSError) as error:
            numbers = reading.number_names
            found = set() if wanted.strict else text_columns(file, names, numbers, form)
            if not found:
                raise csv_error(file, names, numbers, form, error) from None
            as_cells |= found


def _csv_blocks(wanted: Wanted, reading: _Reading) -> Iterator[pa.RecordBatch]:
    numbers = reading.number_names
    texts = [name for name in wanted.used if name not in numbers]
    coded = () if wanted.form.null_values else texts
    for block in csv_blocks(wanted.file, wanted.names, numbers, wanted.used, wanted.form, coded):
        yield without_nulls(block, texts, wanted.form)


def _allocate(file: Path, n_rows: int, n_columns: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty((n_rows, n_columns), dtype=dtype)
    except RuntimeError:  # torch raises it if memory is short or the size is out of range
        raise DataError(
            f"{file}: {n_rows} rows of {n_columns} columns do not fit in memory"
        ) from None


def _compact(cells: pa.Array) -> pa.Array:
    """Texts as a dictionary, which takes four bytes a row."""
    plain = pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)
    return cells.dictionary_encode() if plain else cells
