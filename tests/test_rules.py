"""Splits by a column, by time, by groups and by classes: complete, and rebuilt from their JSON."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runback.config import SplitParts, TrainConfig, parse_split
from runback.data import split as splitting
from runback.data.rules import draw_split
from runback.data.split import Split, split_from_json
from runback.errors import ConfigError, DataError
from runback.training.setup import prepare

TABLE = Path("t.csv")


def drawn(text: str, cells: Any, seed: int = 0) -> Split:
    array = cells if isinstance(cells, np.ndarray | pa.Array) else pa.array(cells)
    return draw_split(TABLE, parse_split(text), text, seed, len(array), lambda _: array, "y")


def rows(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.validation, split.test)]


def refused(text: str, cells: Any) -> str:
    with pytest.raises(DataError) as caught:
        drawn(text, cells)
    return str(caught.value).removeprefix("t.csv: ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("8:1:1", SplitParts("ratio", "", "8:1:1")),
        ("column:part", SplitParts("column", "part")),
        ("column:a:8:1:1", SplitParts("column", "a:8:1:1")),
        ("time:when", SplitParts("time", "when", "8:1:1")),
        ("time:a:b:6:2:2", SplitParts("time", "a:b", "6:2:2")),
        ("group:a, b:1:0:1", SplitParts("group", "a, b", "1:0:1")),
        ("stratified", SplitParts("stratified", "", "8:1:1")),
        ("stratified:6:2:2", SplitParts("stratified", "", "6:2:2")),
    ],
)
def test_a_rule_is_parsed_into_its_parts(text: str, parts: SplitParts) -> None:
    assert parse_split(text) == parts
    assert TrainConfig.from_mapping({"split": text}).split == text


@pytest.mark.parametrize(
    "text", ["", "column:", "time:", "stratified:0:1:1", "random", "stratified:x"]
)
def test_an_invalid_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"option split: .* is not a ratio"):
        TrainConfig(split=text)


def test_a_column_names_the_part_of_each_row() -> None:
    assert rows(drawn("column:p", ["train", "Test", "VALIDATION", " train"])) == [[0, 3], [2], [1]]
    assert rows(drawn("column:p", ["train", "test"])) == [[0], [], [1]]
    assert refused("column:p", ["train", "later"]) == (
        "column 'p', data row 2: 'later' is not train, validation or test (option split)"
    )
    assert "data row 1: has no value" in refused("column:p", [None, "train"])
    assert refused("column:p", ["test"]) == "option split: column:p leaves no training row"


@pytest.mark.parametrize(
    "cells",
    [
        [9, 1, 5, 3],
        np.array([9.0, 1.0, 5.0, 3.0], np.float32),
        ["9", "1", "5", "3"],
        ["2026-01-09", "2026-01-01", "2026-01-05", "2026-01-03"],
        pd.to_datetime(["2026-01-09", "2026-01-01", "2026-01-05", "2026-01-03"]),
    ],
)
def test_older_rows_train_and_the_newest_test(cells: Any) -> None:
    assert rows(drawn("time:t:2:1:1", cells)) == [[1, 3], [2], [0]]


def test_rows_of_the_same_time_are_in_the_same_part() -> None:
    assert (
        refused("time:t:2:1:1", [1, 2, 2, 3])
        == "option split: time:t:2:1:1 leaves no validation row"
    )
    assert "data row 2: has no value" in refused("time:t", [1.0, None])
    assert "data row 2: 'x' is not a date" in refused("time:t", ["2026-01-01", "x"])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(0, 99))
def test_a_group_is_in_one_part_only(groups: list[str], seed: int) -> None:
    try:
        split = drawn("group:g:2:1:1", groups, seed)
    except DataError:
        return
    parts = rows(split)
    assert sorted(itertools.chain(*parts)) == list(range(len(groups)))
    found = [{groups[row] for row in part} for part in parts]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert rows(drawn("group:g:2:1:1", groups, seed)) == parts


def test_the_order_of_rows_does_not_change_the_groups() -> None:
    groups = [f"g{index % 20}" for index in range(200)]
    one, two = drawn("group:g", groups), drawn("group:g", groups[::-1])
    assert {groups[row] for row in one.test} == {groups[::-1][row] for row in two.test}
    assert rows(drawn("group:g", groups, seed=1)) != rows(one)


def test_stratified_parts_have_equal_shares_of_classes() -> None:
    classes = np.array(["a"] * 100 + ["b"] * 50 + ["c"] * 10)
    for part, size in zip(rows(drawn("stratified", classes.tolist())), (128, 16, 16), strict=True):
        assert len(part) == size
        names, counts = np.unique(classes[part], return_counts=True)
        assert names.tolist() == ["a", "b", "c"]
        assert np.abs(counts - np.array([100, 50, 10]) * size / 160).max() <= 1
    assert rows(drawn("stratified:1:0:1", ["a", "b"] * 4))[1] == []
    assert "cannot be stratified: The least populated class" in refused(
        "stratified:1:1:1", ["a"] * 8 + ["b"]
    )


@pytest.mark.parametrize("text", ["column:c", "group:c", "stratified", "time:c"])
@pytest.mark.parametrize(
    "cells", [pa.array([[1]] * 9), pa.array([2**61] * 9, pa.timestamp("s"))], ids=["list", "time"]
)
def test_cells_without_text_split_no_table(text: str, cells: pa.Array) -> None:
    assert refused(text, cells).startswith(("column 'c'", "column 'y'"))


@pytest.mark.parametrize("listed", [True, False])
def test_a_split_by_a_rule_comes_back_from_its_json(
    monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    monkeypatch.setattr(splitting, "MAX_LISTED_ROWS", 100 if listed else 99)
    split = drawn("time:t", np.arange(100.0))
    stored = json.loads(json.dumps(split.as_json()))
    assert ("parts" in stored) is not listed
    assert rows(split_from_json(stored)) == rows(split)
    for changed in (
        {"parts": "AA=="},
        {"parts": "?"},
        {"parts": 3},
        {"n_rows": 99},
        {"n_rows": 10**30},
    ):
        with pytest.raises(DataError, match=r"split\.json"):
            split_from_json({**stored, "parts": stored.get("parts", ""), **changed})


def test_columns_that_define_the_split_are_no_features(tmp_path: Path) -> None:
    frame = pd.DataFrame({"part": ["train"] * 8 + ["test"] * 2, "x": range(10), "y": range(10)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = TrainConfig(data=f"{tmp_path}/t.csv", split="column:part", batch_size=4)
    setup = prepare(config)
    assert setup.table.columns.features == ("x",)
    assert (len(setup.split.train), setup.validation, len(setup.split.test)) == (8, None, 2)
    named = TrainConfig(
        data=f"{tmp_path}/t.csv", split="group:x:1:0:1", features=("x",), batch_size=2
    )
    assert prepare(named).table.columns.features == ("x",)
    with pytest.raises(DataError, match=r"no column 'q' \(option split\)"):
        prepare(TrainConfig(data=f"{tmp_path}/t.csv", split="time:q"))
