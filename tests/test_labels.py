"""Columns of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runback.columns.cells import MISSING
from runback.columns.label import LabelColumn
from runback.errors import DataError, ModelError

TEXTS = st.text(max_size=8).filter(lambda text: text not in MISSING)
KINDS = st.one_of(
    st.lists(TEXTS, min_size=2, max_size=30),
    st.lists(st.integers(-(10**17), 10**17), min_size=2, max_size=30),
    st.lists(st.booleans(), min_size=2, max_size=30),
).filter(lambda values: len(set(values)) > 1)


def fit(values: list[object]) -> LabelColumn:
    return LabelColumn.fit("y", pa.array(values), "t.csv")


@given(KINDS)
def test_codes_lead_back_to_the_labels(values: list[object]) -> None:
    column = fit(values)
    codes = column.encode(pa.array(values), "t.csv", 0)
    as_typed = {str(label): label for label in column.classes}
    found = [str(column.classes[code]) for code in codes]
    assert [text.lower() for text in found] == [str(value).lower() for value in values]
    assert list(column.classes) == sorted(as_typed.values())
    assert list(column.counts) == np.bincount(codes).tolist()


@given(KINDS)
def test_text_cells_and_typed_cells_give_the_same_column(values: list[object]) -> None:
    as_text = [str(value) for value in values]
    typed, text = fit(values), fit(as_text)
    assert typed == text
    codes = typed.encode(pa.array(values), "t", 0)
    assert (codes == typed.encode(pa.array(as_text), "t", 0)).all()
    assert (codes == typed.encode(pd.Series(values), "t", 0)).all()
    assert (codes == typed.encode(pd.Series(values, dtype="category"), "t", 0)).all()


@given(KINDS)
def test_json_leads_back_to_the_column(values: list[object]) -> None:
    column = fit(values)
    assert LabelColumn.from_json(column.as_json()) == column


def test_whole_numbers_are_sorted_by_value() -> None:
    assert fit(["10", "9", "-1"]).classes == (-1, 9, 10)
    assert fit(["10", "9", "x"]).classes == ("10", "9", "x")
    assert fit(["010", "9"]).classes == ("010", "9")  # a code, not a number


def test_floats_that_are_whole_are_labels() -> None:
    assert fit([1.0, 0.0, 1.0]).classes == (0, 1)
    assert fit(["1", "0"]).encode(pd.Series([1.0, 0.0]), "t", 0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1e300, 2.0], "data row 1: 1e+300 is not a whole number"),
        ([1.5, 2.0], "data row 1: 1.5 is not a whole number"),
        (["a", None], "data row 2: has no value"),
        (["a", "NA"], "data row 2: has no value"),
        ([1.0, float("nan")], "data row 2: has no value"),
        (["a", "a"], "has one class in the training rows, 'a'"),
        ([[1], [2]], "is of type list"),
        ([str(n) for n in range(10_001)], "has 10001 classes"),
    ],
)
def test_columns_without_classes_are_refused(values: list[object], problem: str) -> None:
    with pytest.raises(DataError, match=r"^t\.csv: target 'y'") as refused:
        fit(values)
    assert problem in str(refused.value)


def test_an_unknown_class_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match=r"data row 13: 'c' is none of the classes .*'a', 'b'"):
        fit(["a", "b"]).encode(pa.array(["a", "b", "c"]), "t.csv", 10)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        {},
        {"name": "y", "classes": ["a"], "counts": [1]},
        {"name": "y", "classes": ["b", "a"], "counts": [1, 1]},
        {"name": "y", "classes": ["a", 1], "counts": [1, 1]},
        {"name": "y", "classes": [0.5, 1.5], "counts": [1, 1]},
        {"name": "y", "classes": ["a", "b"], "counts": [1]},
        {"name": "y", "classes": ["a", "b"], "counts": [1, -1]},
        {"name": 7, "classes": ["a", "b"], "counts": [1, 1]},
    ],
)
def test_a_damaged_description_is_refused(stored: object) -> None:
    with pytest.raises(ModelError, match="damaged"):
        LabelColumn.from_json(stored)  # type: ignore[arg-type]
