"""The split: complete, disjoint, set by (rows, ratio, seed), and rebuilt from its JSON."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import random_split

from conftest import Workspace
from runback.config import TrainConfig
from runback.data import split as splitting
from runback.data.split import Split, make_split, part_sizes, split_from_json
from runback.errors import DataError, TrackingError
from runback.tracking.artifacts import read_json

SHARES = st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))


def rows(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.validation, split.test)]


def text(shares: tuple[int, int, int]) -> str:
    return ":".join(map(str, shares))


@given(SHARES, st.integers(1, 500), st.integers(0, 2**63 - 1))
def test_every_row_is_in_exactly_one_part(
    shares: tuple[int, int, int], n_rows: int, seed: int
) -> None:
    try:
        split = make_split(n_rows, text(shares), seed)
    except DataError:
        exact = [n_rows * share / sum(shares) for share in shares if share]
        assert min(exact) < 1
        return
    parts = rows(split)
    assert sorted(itertools.chain(*parts)) == list(range(n_rows))
    for part, share in zip(parts, shares, strict=True):
        assert part == sorted(part)
        assert bool(part) is bool(share)
        assert abs(len(part) - n_rows * share / sum(shares)) < 3
    assert split.n_rows == n_rows
    assert rows(make_split(n_rows, text(shares), seed)) == parts


def test_part_sizes_follow_the_ratio() -> None:
    assert part_sizes(200, "8:1:1") == (160, 20, 20)
    assert part_sizes(442, "8:1:1") == (353, 44, 45)
    assert part_sizes(6, "1:0:0") == (6, 0, 0)
    assert part_sizes(10, "1:1:0") == (5, 5, 0)
    assert part_sizes(10, "2:1:0") == (6, 4, 0)


def test_the_parts_equal_torchs_random_split() -> None:
    generator = torch.Generator().manual_seed(7)
    expected = [sorted(part.indices) for part in random_split(range(50), [40, 5, 5], generator)]  # type: ignore[arg-type]
    assert rows(make_split(50, "8:1:1", 7)) == expected


def test_a_single_row_is_a_training_row() -> None:
    assert rows(make_split(1, "1:0:0", 0)) == [[0], [], []]
    assert rows(make_split(1, TrainConfig(split="3:0:0").split, 0)) == [[0], [], []]


def test_another_seed_is_another_split() -> None:
    assert rows(make_split(200, "8:1:1", 0)) != rows(make_split(200, "8:1:1", 1))
    assert make_split(200, "8:1:1", 0).digest != make_split(200, "8:1:1", 1).digest


@pytest.mark.parametrize(
    ("n_rows", "ratio", "part"),
    [(6, "8:1:1", "validation"), (2, "1:9:0", "training"), (1, "1:0:1", "training")],
)
def test_a_split_with_an_empty_part_is_refused(n_rows: int, ratio: str, part: str) -> None:
    with pytest.raises(DataError) as caught:
        make_split(n_rows, ratio, 0)
    assert str(caught.value) == (
        f"option split: {ratio} of {n_rows} rows leaves no {part} row; "
        "use more rows, or another ratio such as 1:0:0"
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("ratio", ["8:1:1", "1:0:0", "4:1:0", "4:0:1"])
def test_a_split_comes_back_from_its_json(
    monkeypatch: pytest.MonkeyPatch, listed: bool, ratio: str
) -> None:
    monkeypatch.setattr(splitting, "MAX_LISTED_ROWS", 100 if listed else 99)
    split = make_split(100, ratio, 3)
    stored = json.loads(json.dumps(split.as_json()))
    assert (stored["test"] is not None) is listed
    again = split_from_json(stored)
    assert rows(again) == rows(split)
    assert (again.ratio, again.seed, again.digest) == (ratio, 3, split.digest)


def test_a_changed_split_is_refused() -> None:
    stored = make_split(100, "8:1:1", 3).as_json()
    other = make_split(100, "8:1:1", 4).as_json()
    for changed in (
        {**stored, "test": other["test"]},
        {**stored, "test": stored["test"][1:]},
        {**stored, "n_rows": 101},
        {**stored, "sha256": other["sha256"]},
        {**stored, "test": None, "validation": None, "seed": 4},
    ):
        with pytest.raises(DataError, match="cannot be rebuilt"):
            split_from_json(changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"test": [1000]}, {"test": "abc"}, {"validation": None}, {"n_rows": -1}, {"n_rows": "x"},
        {"n_rows": 2**40}, {"n_rows": True},
        {"test": None, "ratio": 5}, {"test": None, "seed": 2**70}, {"test": None, "seed": "x"},
        {"test": None, "ratio": "1:2"}, {"test": None, "ratio": "8:1:1", "n_rows": 2},
    ],
)  # fmt: skip
def test_an_invalid_stored_split_is_refused(changed: dict[str, object]) -> None:
    stored = {**make_split(100, "8:1:1", 3).as_json(), **changed}
    with pytest.raises(DataError, match=r"split.json: not a split") as caught:
        split_from_json(stored)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"split.json: not a split"):
        split_from_json({"test": None})


@pytest.mark.parametrize("test", [[5, 4], [5, 5], [-1]])
def test_a_forged_split_is_refused(test: list[int]) -> None:
    """Its digest is right, but it would score other rows, or some rows twice."""
    stored = {**make_split(100, "8:1:1", 3).as_json(), "validation": [], "test": test}
    kept = torch.ones(100, dtype=torch.bool)
    kept[test] = False
    parts = (kept.nonzero().flatten(), torch.tensor([], dtype=torch.int64), torch.tensor(test))
    stored["sha256"] = Split(*parts, ratio="8:1:1", seed=3).digest
    with pytest.raises(DataError, match="out of order, repeated or outside of the table"):
        split_from_json(stored)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    name=st.sampled_from(list(make_split(20, "8:1:1", 3).as_json())), value=JSON, drop=st.booleans()
)
def test_a_damaged_entry_of_a_split_is_refused_or_unused(
    name: str, value: object, drop: bool
) -> None:
    before = make_split(20, "8:1:1", 3)
    stored = {**before.as_json(), name: value}
    if drop:
        del stored[name]
    try:
        after = split_from_json(stored)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert rows(after) == rows(before)


@given(JSON)
def test_json_that_is_no_split_is_refused(stored: Any) -> None:
    with pytest.raises(DataError, match=r"split.json: not a split"):
        split_from_json(stored)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"), (b'{"test": [1', "Expecting"), (b"\xff\xfe{", "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "truncated", "not UTF-8", "nested"],
)  # fmt: skip
def test_a_damaged_split_artifact_is_one_sentence(
    workspace: Workspace, tmp_path: Path, content: bytes, problem: str
) -> None:
    run_id = workspace.client.create_run("0").info.run_id
    (tmp_path / "split.json").write_bytes(content)
    workspace.client.log_artifact(run_id, str(tmp_path / "split.json"))
    with pytest.raises(TrackingError) as caught:
        read_json(workspace.client, run_id, "split.json")
    assert str(caught.value).startswith(f"run {run_id}: artifact 'split.json' is damaged: ")
    assert problem in str(caught.value) and "\n" not in str(caught.value)
