"""The encoded columns of a table: where each one is in the tensor, and how wide it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runback.columns.boolean import BooleanColumn
from runback.columns.category import CategoryColumn
from runback.columns.column import Column
from runback.columns.date import DateColumn
from runback.columns.number import NumberColumn

MAX_TOLD = 8
KINDS: Mapping[str, type[Column]] = {
    "number": NumberColumn,
    "boolean": BooleanColumn,
    "category": CategoryColumn,
    "date": DateColumn,
}


@dataclass(frozen=True)
class EncodedColumn:
    """One number of the encoded tensor, as a module sees it.

    Attributes:
        name: of the number: the column's name, or that of a part such as "when: sin of week".
        column: the name of the table's column.
        kind: "number", "boolean", "category" or "date".
        position: its index in the tensor's second dimension.
        n_categories: for a category, the number of its codes 0, 1, ...; otherwise 0.
        one_hot: for a category, the codes that training rows have, which a one-hot form has
            columns for; otherwise empty.
    """

    name: str
    column: str
    kind: str
    position: int
    n_categories: int = 0
    one_hot: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The encoded tensor `[n, width]`, number by number."""

    columns: tuple[EncodedColumn, ...]

    @property
    def width(self) -> int:
        """The number of columns of the encoded tensor."""
        return len(self.columns)

    @property
    def categories(self) -> tuple[EncodedColumn, ...]:
        """The columns of codes."""
        return tuple(column for column in self.columns if column.n_categories)

    @property
    def numbers(self) -> tuple[EncodedColumn, ...]:
        """All other columns."""
        return tuple(column for column in self.columns if not column.n_categories)

    @property
    def one_hot_width(self) -> int:
        """The number of columns after categories became one-hot columns."""
        return len(self.numbers) + sum(len(column.one_hot) for column in self.categories)


def layout_of(columns: Sequence[Column]) -> Layout:
    """The layout of the encoded columns of a table."""
    encoded: list[EncodedColumn] = []
    for column in columns:
        used = tuple(sorted(set(range(column.codes)) - set(column.unused_codes)))
        for part in column.parts:
            encoded.append(
                EncodedColumn(part, column.name, column.kind, len(encoded), column.codes, used)
            )
    return Layout(tuple(encoded))


def summary_of(columns: Sequence[Column]) -> str:
    """The columns of each kind in one line; empty if all are complete number columns."""
    if all(column.kind == "number" and not column.missing for column in columns):
        return ""
    told = []
    for kind in KINDS:
        names = [_described(column) for column in columns if column.kind == kind]
        if names:
            shown = ", ".join(names[:MAX_TOLD]) + (", ..." if len(names) > MAX_TOLD else "")
            told.append(f"{len(names)} {kind} ({shown})")
    return "; ".join(told)


def _described(column: Column) -> str:
    codes = f" {column.codes - len(column.unused_codes)}" if column.codes else ""
    return f"{column.name}{codes}{'?' if column.missing else ''}"


def columns_from_json(stored: Any, names: Sequence[str]) -> tuple[Column, ...]:
    """The columns of a stored description, which must be those with these names, in order.

    Raises:
        ValueError: the description is invalid, or describes other columns.
    """
    if not isinstance(stored, list | tuple):
        raise ValueError(f"a {type(stored).__name__} is not a list of columns")
    columns = tuple(_column(entry) for entry in stored)
    if tuple(column.name for column in columns) != tuple(names):
        raise ValueError("the columns are not those of the entry 'features'")
    return columns


def _column(stored: Any) -> Column:
    kind = stored.get("kind") if isinstance(stored, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"the kind of a column is {kind!r}")
    return KINDS[kind].from_json(stored)
