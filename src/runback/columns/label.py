"""Columns of classes: text, yes/no or whole numbers, as the targets of a classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runback.columns.cells import MISSING, is_text, shown
from runback.errors import DataError, ModelError

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second

Label = str | bool | int
Codes = npt.NDArray[np.int64]
TRUTH = ("false", "true")
# Every class has an output of its own; more than this are a number or an identifier.
MAX_CLASSES = 10_000
# Whole numbers up to this one are exact as float64.
LARGEST = float(2**53)
_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"


@dataclass(frozen=True)
class LabelColumn:
    """The classes of a target column.

    Attributes:
        name: of the column.
        classes: all of one type (text, truth values or whole numbers), in sorted order.
        counts: how many training rows have each class.
    """

    name: str
    classes: tuple[Label, ...]
    counts: tuple[int, ...]

    @classmethod
    def fit(cls, name: str, cells: pa.Array | pd.Series, where: Path | str) -> Self:
        """Finds the classes of training rows.

        Args:
            name: of the column.
            cells: text, truth values or whole numbers; text that consists of whole numbers, or of
                true and false, becomes that.
            where: the table's name in errors.

        Raises:
            DataError: a cell is missing or is no label, or the number of classes is below 2 or
                above `MAX_CLASSES`.
        """
        texts = _texts(cells, where, name, 0)
        found = {item["values"]: item["counts"] for item in pc.value_counts(texts).to_pylist()}
        labels = _typed(found)
        if len(labels) < 2:
            raise DataError(
                f"{where}: target {name!r} has one class in the training rows, "
                f"{next(iter(labels))!r}; a classification needs two"
            )
        if len(labels) > MAX_CLASSES:
            raise DataError(
                f"{where}: target {name!r} has {len(labels)} classes; at most {MAX_CLASSES} are "
                "supported (is it a number? then choose a loss for numbers)"
            )
        classes = sorted(labels)
        return cls(name, tuple(classes), tuple(found[labels[label]] for label in classes))

    def encode(self, cells: pa.Array | pd.Series, where: Path | str, first: int) -> Codes:
        """`[n_rows]` int64: the index of each cell in `classes`.

        Args:
            cells: consecutive rows of the column, of any type that `fit` accepts.
            where: the table's name in errors.
            first: index of the first row in the table, from 0.

        Raises:
            DataError: a cell is missing, or is not one of the classes.
        """
        texts = _texts(cells, where, self.name, first)
        if isinstance(self.classes[0], bool):
            texts = pc.ascii_lower(texts)
        codes = pc.index_in(texts, value_set=self._keys)
        if codes.null_count:
            row = pc.index(codes.is_null(), True).as_py()
            raise DataError(
                f"{where}: target {self.name!r}, data row {first + row + 1}: "
                f"{shown(texts[row].as_py())} is none of the classes of the training rows"
                f" ({self._listing()})"
            )
        return np.asarray(codes.cast(pa.int64()))

    def as_json(self) -> dict[str, Any]:
        """The column as JSON values."""
        return {"name": self.name, "classes": list(self.classes), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Parses the output of `as_json`.

        Raises:
            ModelError: not a label column.
        """
        if not isinstance(stored, Mapping) or not _is_stored_column(stored):
            raise ModelError("a target's classes are damaged")
        return cls(stored["name"], tuple(stored["classes"]), tuple(stored["counts"]))

    @cached_property
    def _keys(self) -> pa.Array:
        return pa.array([key_of(label) for label in self.classes], pa.string())

    def _listing(self) -> str:
        listed = ", ".join(shown(label) for label in self.classes[:10])
        return listed + (", ..." if len(self.classes) > 10 else "")


def key_of(label: Label) -> str:
    """The text of a class in a CSV file."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _texts(cells: pa.Array | pd.Series, where: Path | str, name: str, first: int) -> pa.Array:
    """The cells as text; whole numbers without a fraction, truth values as true and false.

    Raises:
        DataError: a cell is missing or no label.
    """
    array = cells if isinstance(cells, pa.Array) else _from_series(cells, where, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = _whole(array, where, name, first)
    kind = array.type
    if not (is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        raise DataError(
            f"{where}: target {name!r} is of type {kind}; classes are text, true and false, "
            "or whole numbers"
        )
    texts = array.cast(pa.string())
    missing = pc.or_kleene(pc.is_null(texts), pc.is_in(texts, value_set=pa.array(MISSING)))
    if pc.any(missing).as_py():
        row = pc.index(missing, True).as_py()
        raise DataError(f"{where}: target {name!r}, data row {first + row + 1}: has no value")
    return texts


def _from_series(cells: pd.Series, where: Path | str, name: str) -> pa.Array:
    try:
        array = pa.Array.from_pandas(cells)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"{where}: target {name!r} mixes types ({error})") from None
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _whole(array: pa.Array, where: Path | str, name: str, first: int) -> pa.Array:
    """Floats that are whole numbers (pandas makes floats of whole numbers beside missing cells)."""
    array = pc.if_else(pc.is_nan(array), None, array)
    is_large = pc.greater_equal(pc.abs(array), LARGEST)
    is_other = pc.fill_null(pc.or_(is_large, pc.not_equal(array, pc.trunc(array))), False)
    if pc.any(is_other).as_py():
        row = pc.index(is_other, True).as_py()
        raise DataError(
            f"{where}: target {name!r}, data row {first + row + 1}: {array[row].as_py()!r} is not a "
            "whole number, and so not a class; choose a loss for numbers"
        )
    return array.cast(pa.int64())


def _typed(texts: Mapping[str, int]) -> dict[Label, str]:
    """Each class with its text: whole numbers or truth values if all texts are."""
    keys = pa.array(texts, pa.string())
    if pc.all(pc.match_substring_regex(keys, _WHOLE)).as_py() and "-0" not in texts:
        return {int(text): text for text in texts}
    lower = {text.lower() for text in texts}
    if lower <= set(TRUTH) and len(lower) == len(texts):
        return {text.lower() == "true": text for text in texts}
    return {text: text for text in texts}


def _is_stored_column(stored: Mapping[str, Any]) -> bool:
    name, classes, counts = (stored.get(key) for key in ("name", "classes", "counts"))
    if not isinstance(name, str) or not isinstance(classes, list) or not isinstance(counts, list):
        return False
    is_one_type = any(all(type(label) is kind for label in classes) for kind in (str, bool, int))
    are_counts = all(type(count) is int and count > 0 for count in counts)
    is_complete = len(classes) == len(counts) and 2 <= len(classes) <= MAX_CLASSES
    return is_complete and is_one_type and are_counts and classes == sorted(set(classes))
