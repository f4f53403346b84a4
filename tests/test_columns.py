"""Kinds of columns: found from training rows, encoded as numbers, stored as JSON."""

from __future__ import annotations

import datetime
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runback.columns.boolean import BooleanColumn
from runback.columns.category import MAX_CATEGORIES, CategoryColumn
from runback.columns.cells import MISSING, distinct
from runback.columns.column import Column
from runback.columns.date import DateColumn
from runback.columns.infer import Constant, Unusable, infer
from runback.columns.layout import columns_from_json, layout_of
from runback.columns.number import NumberColumn
from runback.columns.tensors import frame_to_tensor
from runback.errors import DataError


def found(cells: Any, kind: str = "") -> Column:
    array = cells if isinstance(cells, pa.Array) else pa.array(cells)
    return infer("c", array, np.arange(len(array)), kind)


def encoded(column: Column, cells: Any) -> list[list[float]]:
    return column.encode(pa.array(cells), "t.csv", 0).tolist()


def unusable(cells: Any, kind: str = "") -> str:
    with pytest.raises(Unusable) as caught:
        found(cells, kind)
    return caught.value.problem


# How a kind is found


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([1, 2, 3], "number"),
        ([1.5, None, 2.0], "number"),
        (["1", "2.5", "NA", "1e3"], "number"),
        ([True, False, None], "boolean"),
        (["yes", "no", "yes"], "boolean"),
        (["TRUE", "false", "", "True"], "boolean"),
        (["n", "y"], "boolean"),
        (["a", "b", "a", "b", "a", "b"], "category"),
        (["yes", "no", "maybe"] * 4, "category"),
        (["1", "2", "Crew"] * 9, "category"),
        ([datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)], "date"),
        ([datetime.datetime(2026, 1, 1, 5), None], "date"),
        (["2026-01-01", "2026-02-01 10:30"], "date"),
        (["2026-01-01T00:00:00Z", "2026-02-01T00:00:00+01:00"], "date"),
    ],
)
def test_the_kind_follows_from_the_cells(cells: Any, kind: str) -> None:
    column = found(cells)
    assert column.kind == kind
    assert column.missing is any(cell in (None, "", "NA") for cell in cells)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (
            ["Bob", "Ann", "Eve"],
            "column 'c' has 3 different texts in 3 training rows, as free text",
        ),
        (["1", "2", "3", "?"], "column 'c', data row 4: '?' is not a number, as most of its cells"),
        (
            [str(i % 50) for i in range(500)] + ["?"],
            "column 'c', data row 501: '?' is not a number",
        ),
        (["2026-01-01", "soon", "2026-01-03"], "column 'c', data row 2: 'soon' is not a date, as"),
        ([[1], [2]], "column 'c' has cells of type list<"),
        ([b"a", b"b"], "column 'c' has cells of type binary"),
        (
            pa.array([-(2**60), 0], pa.timestamp("us", "Europe/Berlin")),
            "column 'c': a cell of type timestamp[us, tz=Europe/Berlin] lies outside of the years",
        ),
        (pa.array([2**61, 0], pa.timestamp("s")), "column 'c': a cell of type timestamp[s] lies"),
        (pa.array([-(2**30), 0], pa.int32()).cast(pa.date32()), "column 'c': a cell of type date"),
    ],
)
def test_cells_of_no_kind_are_unusable(cells: Any, problem: str) -> None:
    assert unusable(cells).startswith(problem)


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([None, -(2**60)], pa.timestamp("us", "UTC")),
        pa.array([None, 2**61], pa.timestamp("s")),
        pa.array([None, -(2**30)], pa.int32()).cast(pa.date32()),
        pa.array([None, [1]]),
    ],
)
@pytest.mark.parametrize("kind", ["number", "boolean", "category", "date"])
def test_cells_without_text_are_refused_by_each_kind(cells: pa.Array, kind: str) -> None:
    """At prediction, with cells of another type; a date may be any with microseconds in 64 bits."""
    fitted = {
        "number": pa.array([1.0, 2.0]),
        "boolean": pa.array(["yes", "no"]),
        "category": pa.array(["a", "b"] * 9),
        "date": pa.array(["2026-01-01", "2026-01-02"]),
    }[kind]
    column = infer("c", fitted, np.arange(len(fitted)), kind)
    microseconds = pa.types.is_timestamp(cells.type) and cells.type.unit == "us"
    if kind == "date" and microseconds:
        assert np.isfinite(column.encode(cells[1:], "t", 0)).all()
        return
    with pytest.raises(DataError, match=r"^t: column 'c'"):
        column.encode(cells[1:], "t", 0)


@pytest.mark.parametrize(
    "cells", [["a"] * 9, [1.0, 1.0], [None, None], ["NA", ""], ["2026-01-01"] * 3]
)
def test_a_constant_column_is_left_out(cells: Any) -> None:
    with pytest.raises(Constant):
        found(cells)


def test_a_given_kind_replaces_the_found_one() -> None:
    assert found([1, 2, 1, 2], "category").kind == "category"
    assert found(["Bob", "Ann", "Eve", "Ann"], "category").kind == "category"
    assert unusable(["1", "a"], "number") == "column 'c', data row 2: 'a' is not a number"
    assert unusable(["2026-01-01", "5"], "date") == "column 'c', data row 2: '5' is not a date"
    assert unusable(["yes", "x"], "boolean") == "column 'c', data row 2: 'x' is not a boolean"
    assert encoded(found([0, 1], "boolean"), ["1", "no"]) == [[1.0], [0.0]]


# How cells become numbers


def test_missing_numbers_become_the_median_and_a_flag() -> None:
    column = found([1.0, None, 9.0, 3.0])
    assert column.parts == ("c", "c is missing")
    assert encoded(column, [5.0, None]) == [[5.0, 0.0], [3.0, 1.0]]
    complete = found([1.0, 9.0, 3.0])
    assert encoded(complete, [5.0, None]) == [[5.0], [3.0]]
    assert complete.encode(np.float32([5, math.nan]), "", 0).tolist() == [[5.0], [3.0]]


def test_truth_values_become_zero_and_one() -> None:
    assert encoded(found(["yes", "no", "no"]), ["no", "YES", None]) == [[0.0], [1.0], [0.0]]
    assert encoded(found([True, True, None]), [False, None]) == [[0.0, 0.0], [1.0, 1.0]]
    with pytest.raises(
        DataError, match=r"t\.csv: column 'c', data row 2: 'maybe' is neither yes nor"
    ):
        encoded(found(["yes", "no"]), ["yes", "maybe"])


def test_rare_and_unseen_values_share_one_code() -> None:
    column = found(["b"] * 5 + ["a"] * 5 + ["rare", None])
    assert isinstance(column, CategoryColumn)
    assert (column.categories, column.codes, column.unused_codes) == (("a", "b"), 4, ())
    assert encoded(column, ["a", "b", "rare", "new", None]) == [[1.0], [2.0], [0.0], [0.0], [3.0]]
    common = found(["b"] * 5 + ["a"] * 5)
    assert (common.codes, common.unused_codes) == (3, (0,))
    assert encoded(common, ["new", None]) == [[0.0], [0.0]]


def test_only_the_most_frequent_categories_have_codes() -> None:
    cells = [f"{index:03}" for index in range(300) for _ in range(10 + (index >= 100))]
    column = found(cells, "category")
    assert isinstance(column, CategoryColumn)
    assert len(column.categories) == MAX_CATEGORIES
    assert set(column.categories) > {f"{index:03}" for index in range(100, 300)}
    assert column.rare


def test_dates_become_years_and_circles() -> None:
    column = found(["2000-01-01", "2026-07-02"])
    ((years, *circles),) = encoded(column, ["2000-01-01"])
    assert years == 0.0
    assert circles[:2] == [0.0, 1.0]
    saturday = 2 * math.pi * 5 / 7
    assert circles[2:] == [math.sin(saturday), math.cos(saturday)]
    timed = found([datetime.datetime(2026, 1, 1, 6), datetime.datetime(2026, 1, 2)])
    assert timed.parts[-1] == "c: cos of day"
    assert encoded(timed, [datetime.datetime(2026, 1, 1, 6)])[0][-2:] == [
        1.0,
        math.cos(math.pi / 2),
    ]


def test_a_missing_date_becomes_the_median_date() -> None:
    column = found(["2026-01-01", "2026-01-02", "2026-01-03", None])
    first, second = encoded(column, [None, "2026-01-02"])
    assert first[:-1] == second[:-1]
    assert (first[-1], second[-1]) == (1.0, 0.0)
    with pytest.raises(DataError, match="data row 1: 'x' is not a date such as"):
        encoded(column, ["x"])


# Equal cells of any source have equal numbers


SOURCES = st.sampled_from(["array", "dictionary", "chunks", "series", "category", "object"])


def as_source(cells: list[Any], source: str) -> Any:
    array = pa.array(cells)
    if source == "dictionary":
        return array.dictionary_encode()
    if source == "chunks":
        middle = len(array) // 2
        return pa.chunked_array([array[:middle], array[middle:]], array.type)
    series = pd.Series(cells, dtype=object)
    return {
        "array": array,
        "series": array.to_pandas(),
        "category": series.astype("category"),
        "object": series,
    }[source]


TEXTS = st.sampled_from(["a", "b", "b c", "ä", "日本", "x,y", "😀", '"', "0", "01"]) | st.none()
CELLS = st.one_of(
    st.lists(TEXTS, min_size=2, max_size=40),
    st.lists(st.integers(-5, 5) | st.none(), min_size=2, max_size=40),
    st.lists(st.sampled_from(["yes", "no", None]), min_size=2, max_size=40),
    st.lists(st.booleans() | st.none(), min_size=2, max_size=40),
    st.lists(
        st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)) | st.none(),
        min_size=2, max_size=40,
    ),
)  # fmt: skip


@given(CELLS, SOURCES, st.sampled_from(["", "category"]))
def test_every_source_gives_the_same_numbers(cells: list[Any], source: str, kind: str) -> None:
    try:
        column = found(cells, kind)
    except (Unusable, Constant):
        return
    expected = column.encode(pa.array(cells), "t", 0)
    assert expected.shape == (len(cells), len(column.parts))
    assert np.isfinite(expected).all()
    again = column.encode(as_source(cells, source), "t", 0)
    assert again.tobytes() == np.ascontiguousarray(expected).astype(again.dtype).tobytes()
    one_by_one = [column.encode(pa.array([c], pa.array(cells).type), "t", 0)[0] for c in cells]
    assert np.stack(one_by_one).tolist() == expected.tolist()


@given(CELLS, st.sampled_from(["", "category"]))
def test_every_column_comes_back_from_its_json(cells: list[Any], kind: str) -> None:
    try:
        column = found(cells, kind)
    except (Unusable, Constant):
        return
    stored = json.loads(json.dumps([column.as_json()]))
    assert columns_from_json(stored, ["c"]) == (column,)


def test_null_texts_are_missing_in_every_source() -> None:
    cells = [*MISSING, "a", None]
    for source in (pa.array(cells), pd.Series(cells), pd.Series(cells, dtype="category")):
        assert distinct(source).n_missing == len(MISSING) + 1


def test_numbers_as_categories_have_one_text() -> None:
    for cells in ([1, 2], [1.0, 2.0], ["1", "2"], ["1.0", "2.0"], pd.Series([1, 2], dtype="Int8")):
        array = cells if isinstance(cells, pd.Series) else pa.array(cells)
        assert distinct(array).values == ["1", "2"]
    assert distinct(pa.array(["01", "1.50"])).values == ["01", "1.50"]
    assert distinct(pa.array([True, False])).values == ["True", "False"]


def test_a_frame_is_encoded_by_column_names() -> None:
    columns = (found(["a", "b"] * 4), found([1.0, None]))
    columns = (columns[0], NumberColumn("n", 1.0, missing=True))
    frame = pd.DataFrame({"n": [None, 2.0], "other": [1, 1], "c": ["b", "a"]})
    tensor = frame_to_tensor(frame, ["c", "n"], torch.float32, columns=columns)
    assert tensor.tolist() == [[2.0, 1.0, 1.0], [1.0, 2.0, 0.0]]


# The layout


def test_the_layout_names_every_number() -> None:
    columns = (
        NumberColumn("n", 1.0, missing=True),
        CategoryColumn("k", ("a", "b"), rare=False, missing=True),
        BooleanColumn("b", 0, missing=False, raw="text"),
        DateColumn("d", times=False, median=0, missing=False),
    )
    layout = layout_of(columns)
    assert [column.name for column in layout.columns][:4] == ["n", "n is missing", "k", "b"]
    assert [column.position for column in layout.columns] == list(range(9))
    assert layout.columns[2].one_hot == (1, 2, 3)
    assert (layout.width, layout.one_hot_width) == (9, 11)
    assert {column.kind for column in layout.columns[4:]} == {"date"}


# What a model folder says is data


@pytest.mark.parametrize(
    "stored",
    [
        None, 3, [3], [{}], [{"kind": "text"}], [{"kind": ["number"]}], [{"kind": "number"}],
        [{"kind": "number", "name": "c", "median": math.nan, "missing": False}],
        [{"kind": "number", "name": "c", "median": True, "missing": False}],
        [{"kind": "number", "name": "c", "median": 1.0, "missing": 0}],
        [{"kind": "number", "name": "other", "median": 1.0, "missing": False}],
        [{"kind": "boolean", "name": "c", "usual": 2, "missing": False, "raw": "text"}],
        [{"kind": "boolean", "name": "c", "usual": 1, "missing": False, "raw": "code"}],
        [{"kind": "category", "name": "c", "categories": ["b", "a"], "rare": True, "missing": True}],
        [{"kind": "category", "name": "c", "categories": ["a", "a"], "rare": True, "missing": True}],
        [{"kind": "category", "name": "c", "categories": [1], "rare": True, "missing": True}],
        [{"kind": "category", "name": "c", "categories": "ab", "rare": True, "missing": True}],
        [{"kind": "category", "name": "c", "categories": [f"{i:03}" for i in range(257)],
          "rare": True, "missing": True}],
        [{"kind": "date", "name": "c", "times": True, "median": 2**63, "missing": False}],
        [{"kind": "date", "name": "c", "times": True, "median": 0.5, "missing": False}],
    ],
)  # fmt: skip
def test_an_invalid_description_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"^(the|a) "):
        columns_from_json(stored, ["c"])
