"""`predict --keep`: every kind of Arrow column passes through unchanged."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runback.commands.predict
from finished_runs import FinishedRuns
from runback import predict
from runback.commands.predict import _predicted, predict_file
from runback.data.writers import write_csv, write_parquet
from runback.errors import DataError, UsageError
from runback.model.builtin import Linear
from runback.model.serving import Predictor
from runback.model.spec import ModelSpec

SPEC = ModelSpec("regression", "linear", {}, ("x",), ("y",), "none", "float32")


def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(Linear(1, 1).eval(), SPEC)


# With a text in CSV: a type, and what its cells are made from.
SIMPLE: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    pa.large_string(): st.text("ab,\"\r\n' "),
    pa.decimal128(38, 5): st.decimals(-(10**20), 10**20, places=5),
    pa.decimal256(60, 2): st.decimals(-(10**50), 10**50, places=2),
    pa.date32(): st.dates(),
    pa.timestamp("ms"): st.datetimes(),
    pa.timestamp("ns"): st.integers(-(2**62), 2**62),
    pa.timestamp("us", "Europe/Zurich"): st.datetimes(timezones=st.just(datetime.UTC)),
    pa.time64("us"): st.times(),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b,c", ""]),
    pa.null(): st.none(),
}
# Only in Parquet.
NESTED: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.binary(): st.binary(),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.duration("us"): st.integers(-(2**40), 2**40),
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    pa.struct([("a", pa.int64()), ("b", pa.string())]): st.fixed_dictionaries(
        {"a": st.integers(0, 9), "b": st.none() | st.text("ab")}
    ),
    pa.map_(pa.string(), pa.int64()): st.lists(
        st.tuples(st.text("ab"), st.integers(0, 9)), unique_by=lambda item: item[0]
    ),
}


@st.composite
def tables(draw: st.DrawFn, kinds: dict[pa.DataType, st.SearchStrategy[Any]]) -> pa.Table:
    """A feature `x`, and columns to keep of some kinds; many cells are missing."""
    rows = draw(st.integers(0, 7))
    columns = {"x": pa.array(draw(st.lists(st.integers(-9, 9), min_size=rows, max_size=rows)))}
    columns["x"] = columns["x"].cast(pa.float64())
    fields = [pa.field("x", pa.float64())]
    for number, kind in enumerate(draw(st.lists(st.sampled_from(list(kinds)), max_size=4))):
        cells = st.none() | kinds[kind]
        values = draw(st.lists(cells, min_size=rows, max_size=rows))
        note = {b"note": str(number).encode()} if number % 2 else None
        fields.append(pa.field(f"k{number}", kind, metadata=note))
        columns[f"k{number}"] = pa.array(values, kind)
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))


def kept_names(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name != "x"]


def stored(table: pa.Table, folder: Path) -> tuple[Path, pa.Table]:
    """A table in a Parquet file of small row groups, and what Parquet makes of it."""
    file = folder / "in.parquet"
    pq.write_table(table, file, row_group_size=2)
    return file, pq.read_table(file)


quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(table=tables(SIMPLE | NESTED))
def test_kept_parquet_columns_stay_equal_in_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pa.Table
) -> None:
    monkeypatch.setattr(runback.commands.predict, "CHUNK_ROWS", 3)
    file, before = stored(table, tmp_path)
    names = kept_names(table)
    with (tmp_path / "out.parquet").open("wb") as out:
        assert write_parquet(_predicted(predictor(), file, names), out) == len(table)
    after = pq.read_table(tmp_path / "out.parquet")
    assert after.column_names == [*names, "y"]
    kept = after.select(names)
    assert kept.schema.equals(before.select(names).schema)
    for name in names:  # as text: NaN equals itself there
        assert kept[name].type == before[name].type
        assert str(kept[name].to_pylist()) == str(before[name].to_pylist())


def parsed(kind: pa.DataType, text: str) -> str:
    """A cell of the output as it is read again, in Arrow's own notation."""
    if pa.types.is_dictionary(kind):
        return text
    if pa.types.is_time(kind):
        return str(pa.scalar(datetime.time.fromisoformat(text), kind))
    return str(pa.scalar(text).cast(kind))


@quick
@given(table=tables(SIMPLE))
def test_kept_parquet_columns_have_exact_text_in_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pa.Table
) -> None:
    monkeypatch.setattr(runback.commands.predict, "CHUNK_ROWS", 3)
    file, before = stored(table, tmp_path)
    names = kept_names(table)
    parts: list[str] = []
    assert write_csv(_predicted(predictor(), file, names), parts.append) == len(table)
    header, *rows = csv.reader(io.StringIO("".join(parts), newline=""))
    assert header == [*names, "y"] and len(rows) == len(table)
    for index, name in enumerate(names):
        kind = before[name].type
        for row, value in zip(rows, before[name], strict=True):
            if not value.is_valid:
                assert row[index] == ""
            else:
                assert parsed(kind, row[index]) == str(value), (kind, row[index])


@quick
@given(
    cells=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
        max_size=7,
    )
)
def test_kept_csv_cells_are_the_text_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[str]
) -> None:
    monkeypatch.setattr(runback.commands.predict, "CHUNK_ROWS", 3)
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([["k", "x"], *([cell, "1"] for cell in cells)])
    parts: list[str] = []
    write_csv(_predicted(predictor(), tmp_path / "in.csv", ["k"]), parts.append)
    rows = list(csv.reader(io.StringIO("".join(parts), newline="")))
    assert [row[0] for row in rows] == ["k", *cells]


def test_kept_integers_and_nulls_survive_predict(
    finished_runs: FinishedRuns, tmp_path: Path
) -> None:
    """What became floats, and kinds that were null in the first rows, before."""
    huge = 2**53 + 1
    late: list[Any] = [None] * 3
    table = pa.table(
        {
            "x": [1.0, 2.0, 3.0, 4.0],
            "n": pa.array([huge, None, -huge, 1]),
            "day": pa.array([*late, datetime.date(2020, 2, 29)]),
            "price": pa.array([*late, decimal.Decimal("1.10")]),
            "tags": pa.array([*late, [1, 2]]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    run, source = finished_runs.ids["strong"], str(tmp_path / "in.parquet")
    keep = ["n", "day", "price", "tags"]
    predict_file(run, source, str(tmp_path / "out.parquet"), keep)
    assert pq.read_table(tmp_path / "out.parquet").select(keep).equals(table.select(keep))
    predict_file(run, source, str(tmp_path / "out.csv"), keep[:3])
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == [
        "n,day,price", f"{huge},,", ",,", f"-{huge},,", "1,2020-02-29,1.10",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"column 'tags' is list<.*>, which has no text in CSV"):
        predict_file(run, source, str(tmp_path / "no.csv"), keep)
    assert not (tmp_path / "no.csv").exists()


def test_pandas_reads_kept_columns_in_their_own_dtypes(
    finished_runs: FinishedRuns, tmp_path: Path
) -> None:
    frame = pd.DataFrame(
        {
            "x": [1.0, 2.0],
            "n": pd.array([2**53 + 1, None], "Int64"),
            "c": pd.Categorical(["b", "a"], ["b", "a"], ordered=True),
            "t": pd.to_datetime(["2020-01-01", None]).tz_localize("Asia/Tokyo"),
        },
        index=pd.Index(["p", "q"], name="i"),
    )
    frame.to_parquet(tmp_path / "in.parquet")
    keep = ["n", "c", "t"]
    out = tmp_path / "out.parquet"
    predict_file(finished_runs.ids["strong"], str(tmp_path / "in.parquet"), str(out), keep)
    found = pd.read_parquet(out)
    pd.testing.assert_frame_equal(found[keep], frame[keep].reset_index(drop=True))


def test_a_frame_keeps_its_own_dtypes_and_index(finished_runs: FinishedRuns) -> None:
    frame = pd.DataFrame(
        {"x": [1, 2], "n": pd.array([2**53 + 1, None], "Int64"), 7: ["a", None]}, index=[5, 5]
    )
    found = predict(finished_runs.ids["strong"], frame, keep=["n", "7"])
    assert list(found.columns) == ["n", 7, "y"]
    pd.testing.assert_frame_equal(found[["n", 7]], frame[["n", 7]])
    assert found["y"].equals(predict(finished_runs.ids["strong"], frame)["y"])
    for keep, error in ((["no"], DataError), (["y"], UsageError), (["n", "n"], UsageError)):
        with pytest.raises(error):
            predict(finished_runs.ids["strong"], frame, keep=keep)


def test_a_time_outside_of_the_calendar_is_refused_in_csv() -> None:
    table = pa.table({"t": pa.array([1, 2**62], pa.timestamp("us"))})
    with pytest.raises(DataError, match="column 't', data row 2: a time outside of the calendar"):
        write_csv(iter([table]), str)


def test_metadata_of_other_columns_is_not_kept(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    pd.DataFrame({"x": [1.0], "n": [1], "z": [2]}).to_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    predict_file(finished_runs.ids["strong"], str(tmp_path / "in.parquet"), str(out), ["n"])
    columns = json.loads(pq.read_schema(out).metadata[b"pandas"])["columns"]
    assert [column["name"] for column in columns] == ["n"]
