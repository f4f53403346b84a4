"""The kind of a column, found from the cells of its training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from runback.columns.boolean import are_truths
from runback.columns.category import CategoryColumn
from runback.columns.cells import Distinct, distinct, is_date, is_number, is_text, shown
from runback.columns.column import Column
from runback.columns.date import moment_of
from runback.columns.layout import KINDS
from runback.columns.number import not_a_number, number_of

# With more different numbers than this, a column of numbers and few other texts is one of numbers.
FEW_VALUES = 20


class Unusable(Exception):  # noqa: N818 - becomes part of a DataError
    """A column that cannot be used as it is.

    Args:
        problem: what is wrong, with the column's name.
        as_category: whether the kind category would accept it.
    """

    def __init__(self, problem: str, *, as_category: bool) -> None:
        super().__init__(problem)
        self.problem, self.as_category = problem, as_category


class Constant(Exception):  # noqa: N818 - the column is left out, which is no error
    """A column without information: its training rows have one value, or none."""


def infer(name: str, cells: pa.Array, rows: Any, kind: str = "") -> Column:
    """The column fitted on its training rows.

    Args:
        name: of the column.
        cells: of the training rows.
        rows: their row numbers in the table, from 0, for errors.
        kind: one of `KINDS`; empty to find it.

    Raises:
        Unusable: no kind fits, or the cells are not of the given one.
        Constant: all cells are equal or missing.
    """
    if not _is_usable(cells.type):
        raise Unusable(f"column {name!r} has cells of type {cells.type}", as_category=False)
    try:
        found = distinct(cells)
    except TypeError as error:
        raise Unusable(f"column {name!r}: {error}", as_category=False) from None
    counts = found.counts()
    if not counts or (len(counts) == 1 and not found.n_missing):
        raise Constant
    chosen = kind or _kind_of(name, cells, found, rows)
    return _checked(_fitted(name, cells, found, rows, chosen))


def _is_usable(kind: pa.DataType) -> bool:
    plain = pa.types.is_boolean(kind) or pa.types.is_null(kind)
    return bool(plain or is_text(kind) or is_number(kind) or is_date(kind))


def _checked(column: Column) -> Column:
    """The column, unless all its training rows have the same code."""
    if isinstance(column, CategoryColumn) and column.codes - len(column.unused_codes) == 1:
        raise Constant
    return column


def _fitted(name: str, cells: pa.Array, found: Distinct, rows: Any, kind: str) -> Column:
    accepts: dict[str, Callable[[str], bool]] = {
        "number": lambda text: number_of(text) is not None,
        "boolean": lambda text: are_truths([text]) or text in ("0", "1"),
        "date": lambda text: moment_of(text) is not None,
    }
    if kind in accepts:
        wrong = found.first(not accepts[kind](text) for text in found.values)
        if wrong is not None:
            raise Unusable(
                f"column {name!r}, data row {rows[wrong[0]] + 1}: {shown(wrong[1])} is not a {kind}",
                as_category=True,
            )
    return KINDS[kind].fit(name, cells)


def _kind_of(name: str, cells: pa.Array, found: Distinct, rows: Any) -> str:
    if is_number(cells.type):
        return "number"
    if is_date(cells.type):
        return "date"
    if pa.types.is_boolean(cells.type):
        return "boolean"
    return _kind_of_texts(name, found, rows)


def _kind_of_texts(name: str, found: Distinct, rows: Any) -> str:
    counts = found.counts()
    if are_truths(counts):
        return "boolean"
    n_present = len(found.codes) - found.n_missing
    is_diverse = 2 * len(counts) > n_present
    for kind, parse in (("number", number_of), ("date", moment_of)):
        n_parsed = sum(parse(text) is not None for text in counts)
        if n_parsed == len(counts):
            return kind
        if 2 * n_parsed >= len(counts) and (is_diverse or n_parsed > FEW_VALUES):
            wrong = found.first(parse(text) is None for text in found.values)
            assert wrong is not None
            raise Unusable(
                _mostly(name, kind, int(rows[wrong[0]]) + 1, wrong[1]), as_category=not is_diverse
            )
    if is_diverse:
        raise Unusable(
            f"column {name!r} has {len(counts)} different texts in {n_present} training rows, as "
            "free text or an identifier has",
            as_category=True,
        )
    return "category"


def _mostly(name: str, kind: str, row: int, text: str) -> str:
    """The message for a cell that is not of the kind of most others."""
    if kind == "number":
        return f"{not_a_number(name, row, text)}, as most of its cells are"
    return f"column {name!r}, data row {row}: {shown(text)} is not a date, as most of its cells are"


def rows_of(cells: pa.Array, rows: Any) -> pa.Array:
    """Some cells of a column; `rows` are sorted row numbers `[n]`."""
    if len(rows) == len(cells):
        return cells
    return cells.take(pa.array(np.asarray(rows)))
