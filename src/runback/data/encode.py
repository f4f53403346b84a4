"""The columns of a table, fitted on its training rows, and the table as tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runback.columns.cells import text_of
from runback.columns.column import Column
from runback.columns.infer import Constant, Unusable, infer, rows_of
from runback.columns.label import LabelColumn
from runback.columns.number import MEDIAN_ROWS, NumberColumn, median_of, number_columns
from runback.columns.tensors import fill, listing, width_of
from runback.data.raw import RawTable
from runback.errors import DataError

_ROWS = 65_536  # of a table in one piece
_CACHED_ROWS = 4096  # of which the numbers fit in a processor's cache


@dataclass(frozen=True)
class FittedColumns:
    """The feature columns that are used.

    Attributes:
        columns: in the order of the table's features.
        constant: the features that are left out, as they have one value in the training rows.
    """

    columns: tuple[Column, ...]
    constant: tuple[str, ...]


def fit_columns(raw: RawTable, train: Tensor, kinds: Mapping[str, str]) -> FittedColumns:
    """Finds the kind of each feature from the training rows, and fits it on them.

    Args:
        raw: the table.
        train: sorted row numbers `[n_train]` int64.
        kinds: the kinds of some features by name.

    Raises:
        DataError: columns that cannot be used, all in one message; or all are constant.
    """
    fitted = _fit_numbers(raw, train)
    problems: list[tuple[str, Unusable]] = []
    rows = train.numpy()
    for name in raw.columns.features:
        if name not in raw.cells:
            continue
        try:
            column = infer(name, rows_of(raw.cells[name], rows), rows, kinds.get(name, ""))
            fitted[name] = column
        except Constant:
            fitted[name] = None
        except Unusable as problem:
            problems.append((name, problem))
    if problems:
        raise DataError(f"{raw.path}: {_unusable(problems)}")
    columns = tuple(c for name in raw.columns.features if (c := fitted[name]) is not None)
    if not columns:
        raise DataError(
            f"{raw.path}: no feature column is left; in the training rows all are constant: "
            f"{listing(raw.columns.features)}"
        )
    return FittedColumns(columns, tuple(n for n in raw.columns.features if fitted[n] is None))


def encode_features(raw: RawTable, columns: Sequence[Column], dtype: torch.dtype) -> Tensor:
    """`[n_rows, width]`, the features as the columns encode them; the cells of `raw` are freed.

    Raises:
        DataError: a cell is not of its column's kind, is refused as missing, or is infinite.
    """
    numbers = raw.numbers[0]
    if tuple(column.name for column in columns) == numbers.names and width_of(columns) == len(
        columns
    ):
        for index, column in enumerate(columns):
            if column.name in raw.incomplete:
                fill(raw.path, [column], raw.column, numbers.tensor[:, index : index + 1], 0)
        return numbers.tensor
    encoded = torch.empty((len(raw), width_of(columns)), dtype=dtype)
    position = 0
    for part, size in _parts(raw, columns):
        width = width_of(part)
        _fill_part(raw, part, size, encoded[:, position : position + width])
        position += width
    return encoded


def _parts(raw: RawTable, columns: Sequence[Column]) -> Iterator[tuple[Sequence[Column], int]]:
    """Columns that are encoded together, and the rows that are encoded in one piece.

    Numbers that are side by side stay in the processor's cache. Other cells are encoded as a whole,
    since each distinct text is looked up once.
    """
    for are_numbers, group in groupby(columns, lambda c: c.name in raw.numbers[0].names):
        if are_numbers:
            yield tuple(group), _CACHED_ROWS
        else:
            yield from (((column,), len(raw)) for column in group)


def _fill_part(raw: RawTable, columns: Sequence[Column], size: int, part: Tensor) -> None:
    """Fills `[n_rows, width]` with some columns, of which the cells that are no numbers are freed."""
    for low in range(0, len(raw), size):
        rows = slice(low, low + size)
        fill(raw.path, columns, partial(_cells, raw, rows), part[rows], low)
    for column in columns:
        raw.cells.pop(column.name, None)


def _cells(raw: RawTable, rows: slice, name: str) -> Any:
    return raw.column(name)[rows]


def fit_labels(raw: RawTable, train: Tensor) -> tuple[LabelColumn, ...]:
    """The classes of the targets in the training rows `[n_train]`.

    Raises:
        DataError: a target has no classes.
    """
    rows = train.numpy()
    return tuple(
        LabelColumn.fit(name, rows_of(raw.cells[name], rows), raw.path)
        for name in raw.columns.targets
    )


def encode_labels(raw: RawTable, labels: Sequence[LabelColumn]) -> Tensor:
    """`[n_rows, n_targets]` int64, the codes of the classes.

    Raises:
        DataError: a cell is missing, or none of the classes.
    """
    codes = [label.encode(raw.cells[label.name], raw.path, 0) for label in labels]
    return torch.from_numpy(np.stack(codes, axis=1))


def encode_targets(raw: RawTable, dtype: torch.dtype) -> Tensor:
    """`[n_rows, n_targets]`.

    Raises:
        DataError: a cell is not a finite number.
    """
    numbers = raw.numbers[1]
    if numbers.names == raw.columns.targets:
        return numbers.tensor
    targets = torch.empty((len(raw), len(raw.columns.targets)), dtype=dtype)
    fill(raw.path, number_columns(raw.columns.targets), raw.column, targets, 0)
    return targets


def example_rows(
    raw: RawTable, columns: Sequence[Column], rows: Tensor
) -> list[list[float | bool | str | None]]:
    """The raw feature cells of some rows as JSON values, for the example of a model."""
    cells = [_example_cells(raw, column, rows) for column in columns]
    return [list(row) for row in zip(*cells, strict=True)]


def _example_cells(raw: RawTable, column: Column, rows: Tensor) -> list[float | bool | str | None]:
    cells = raw.column(column.name)
    if column.raw == "number":
        taken = cells[rows.numpy()] if isinstance(cells, np.ndarray) else cells.take(rows.numpy())
        numbers = column.encode(taken, raw.path, 0)[:, 0].tolist()
        return list(numbers)
    texts = text_of(cells.take(rows.numpy()))
    if column.raw == "boolean":
        return [None if text is None else text == "True" for text in texts]
    return list(texts)


def _fit_numbers(raw: RawTable, train: Tensor) -> dict[str, Column | None]:
    """The number columns that are read as numbers, by name; None for a constant one."""
    names, tensor = raw.numbers[0].names, raw.numbers[0].tensor
    low, high = _ranges(tensor, train)
    step = max(1, -(-len(train) // MEDIAN_ROWS))
    sample = tensor.index_select(0, train[::step]).numpy()
    fitted: dict[str, Column | None] = {}
    for index, name in enumerate(names):
        if torch.isnan(low[index]):
            column = tensor[:, index].index_select(0, train).numpy()
            is_empty = bool(np.isnan(column).all())
            fitted[name] = None if is_empty else NumberColumn.fit(name, column)
        elif low[index] == high[index]:
            fitted[name] = None
        else:
            fitted[name] = NumberColumn(name, median_of(sample[:, index]))
    return fitted


def _ranges(tensor: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest number of each column in some rows; NaN if one is missing."""
    parts = [torch.aminmax(tensor.index_select(0, part), dim=0) for part in rows.split(_ROWS)]
    low = torch.stack([part.min for part in parts]).amin(0)
    return low, torch.stack([part.max for part in parts]).amax(0)


def _unusable(problems: Sequence[tuple[str, Unusable]]) -> str:
    """All columns that cannot be used, and the option that accepts them."""
    told = "; ".join(problem.problem for _, problem in problems)
    option = json.dumps({name: "ignore" for name, _ in problems}, ensure_ascii=False)
    categories = [name for name, problem in problems if problem.as_category]
    hint = f", or as categories with {json.dumps('category')} instead" if categories else ""
    return f"{told}; leave them out with --columns '{option}'{hint}"
