"""Tables: values are read exactly, and unusable cells are named exactly."""

from __future__ import annotations

import csv
import decimal
import math
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import DATA
from runback.columns.tensors import frame_to_tensor
from runback.data.files import data_name
from runback.data.readers import column_names, fingerprint
from runback.data.table import Table, read_parts, read_table
from runback.errors import DataError


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(file: Path, target: Any = (), features: Any = (), dtype: Any = torch.float64) -> Table:
    return read_table(file, target, features, dtype)


def refused(file: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(file, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


def cells(table: Table) -> list[list[float]]:
    return torch.cat((table.features, table.targets), dim=1).tolist()


# What is read


def test_the_example_tables_are_read_exactly() -> None:
    table = read(DATA / "non_linear.csv")
    assert (len(table), table.columns.features, table.columns.targets) == (200, ("x",), ("y",))
    assert cells(table)[:5] == [
        [-10.0, 327.79], [-9.9, 321.39], [-9.8, 314.48], [-9.7, 308.51], [-9.6, 302.86],
    ]  # fmt: skip
    x, y = table.features[:, 0], table.targets[:, 0]
    noise = y - (3.1 * x**2 - 1.7 * x)
    assert noise.min() > 0.0 and noise.max() < 1.0
    table = read(DATA / "multiple_linear.csv", target=("y1", "y2"))
    assert table.columns.features == ("x1", "x2")
    assert table.targets.shape == (6, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"x,y\n1,2\n3,4\n",
        b"x,y\n1,2\n3,4",
        b"\xef\xbb\xbfx,y\n1,2\n3,4\n",
        b"x,y\r\n1,2\r\n3,4\r\n",
        b"x,y\r\n1,2\n3,4\r",
        b"x,y\r1,2\r3,4\r",
        b'"x","y"\n"1","2"\n"3","4"\n',
        b" x , y \n 1 ,2\n3, 4\n",
        b"\n\nx,y\n\n1,2\n\n3,4\n\n",
        b"x,y\n1.0,2e0\n+3,0.4E+1\n",
    ],
)
def test_csv_dialects_give_the_same_table(tmp_path: Path, content: bytes) -> None:
    table = read(write(tmp_path, content))
    assert cells(table) == [[1.0, 2.0], [3.0, 4.0]]
    assert (table.columns.features, table.columns.targets) == (("x",), ("y",))


def test_quoted_names_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    file = write(tmp_path, '"a, b","say ""c""","d\ne",y\n1,2,3,4\n')
    assert read(file).columns.features == ("a, b", 'say "c"', "d\ne")
    assert cells(read(file)) == [[1.0, 2.0, 3.0, 4.0]]


def test_unused_columns_may_hold_anything(tmp_path: Path) -> None:
    file = write(tmp_path, 'name,x,note,y\nBob,1,"a, ""b""\nc",2\n\xc5,3,,4\n')
    assert cells(read(file, features=["x"])) == [[1.0, 2.0], [3.0, 4.0]]


def test_the_order_of_columns_is_the_one_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, "a,b,c,d\n1,2,3,4\n")
    table = read(file, target=["c", "a"], features=["d", "b"])
    assert (table.features.tolist(), table.targets.tolist()) == ([[4.0, 2.0]], [[3.0, 1.0]])
    assert read(file, target=["b"]).columns.features == ("a", "c", "d")


def test_one_row_of_thousands_of_columns_is_read(tmp_path: Path) -> None:
    names = [f"a rather long name of column {index}" for index in range(4000)]
    file = write(tmp_path, ",".join(names) + "\n" + ",".join(map(str, range(4000))) + "\n")
    table = read(file, dtype=torch.float32)
    assert table.features.tolist() == [list(map(float, range(3999)))]
    assert table.targets.tolist() == [[3999.0]]


def test_a_row_longer_than_a_read_block_is_read(tmp_path: Path) -> None:
    names = [f"{index}" for index in range(60_000)]
    rows = "\n".join(",".join(["0.1234567890123456789"] * len(names)) for _ in range(2))
    table = read(write(tmp_path, ",".join(names) + "\n" + rows + "\n"))
    assert table.features.shape == (2, 59_999)
    assert (table.features == 0.1234567890123456789).all()


FINITE = st.floats(allow_nan=False, allow_infinity=False)
TABLES = st.integers(2, 5).flatmap(
    lambda width: st.lists(st.lists(FINITE, min_size=width, max_size=width), min_size=1, max_size=9)
)


@given(TABLES, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_any_finite_table_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], end: str, quoting: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator=end, quoting=quoting)
        writer.writerow([f"c{index}" for index in range(len(rows[0]))])
        writer.writerows(rows)
    assert cells(read(file)) == rows
    names = [f"c{index}" for index in range(len(rows[0]))]
    frames = [part.to_pandas() for part in read_parts(file, names, (), 2)]
    parts = [frame_to_tensor(frame, names, torch.float64) for frame in frames]
    assert torch.cat(parts).tolist() == rows
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, names=names), file.with_suffix(".parquet"))
    assert cells(read(file.with_suffix(".parquet"))) == rows


def test_the_dtype_asked_for_is_the_one_given(tmp_path: Path) -> None:
    file = write(tmp_path, "x,y\n0.1,16777217\n")
    for dtype in (torch.float32, torch.float64):
        table = read(file, dtype=dtype)
        assert (table.features.dtype, table.targets.dtype) == (dtype, dtype)
        assert table.features.item() == torch.tensor(0.1, dtype=dtype).item()
        assert table.targets.item() == torch.tensor(16777217.0, dtype=dtype).item()


def test_the_fingerprint_is_the_files_digest(tmp_path: Path) -> None:
    one, two = write(tmp_path, "x,y\n1,2\n"), write(tmp_path, "x,y\r\n1,2\r\n", "b.csv")
    assert read(one).fingerprint == fingerprint(one) != read(two).fingerprint
    assert len(fingerprint(one)) == 64
    assert read(one).path == one.resolve()


# What is refused


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "the file is empty"),
        ("x,y\n", "has a header but no data row"),
        ("x,y", "has a header but no data row"),
        ("x,y\n\n\n", "has a header but no data row"),
        ("\n\n", "the first line has no name"),
        ("x,x,y\n1,2,3\n", "column 'x' appears more than once"),
        ("x, x,y\n1,2,3\n", "column 'x' appears more than once"),
        (",x,y\n0,1,2\n", "column 1 has no name (is it a row index"),
        ("x,\n1,2\n", "column 2 has no name"),
        ("x;y\n1,5;2,5\n", "one column 'x;y'; columns must be separated by commas"),
        ("x\ty\n1\t2\n", "one column 'x\\ty'; columns must be separated by commas"),
        ("y\n1\n2\n", "no feature column is left; all are targets: y"),
        ("x,y\n1,2\nabc,4\n", "column 'x', data row 2: 'abc' is not a number"),
        ("x,y\n1,2\n3,1_000\n", "column 'y', data row 2: '1_000' is not a number"),
        ("x,y\n1,True\n", "column 'y', data row 1: 'True' is not a number"),
        ("x,y\n1,0x10\n", "column 'y', data row 1: '0x10' is not a number"),
        ("x,y\n1,٣\n", "column 'y', data row 1: '٣' is not a number"),
        ('x,y\n1,"2,5"\n', "column 'y', data row 1: '2,5' is not a number"),
        ("x,y\n1,2026-01-01\n", "column 'y', data row 1: '2026-01-01' is not a number"),
        ("x,y\n1,2\n\n3,\n", "column 'y', data row 2: has no value"),
        ("x,y\n1,2\nNaN,4\n", "column 'x', data row 2: has no value"),
        ("x,y\n1,2\nNA,4\n", "column 'x', data row 2: has no value"),
        ('x,y\n1,2\n"",4\n', "column 'x', data row 2: has no value"),
        ("x,y\n1,2\n3,inf\n", "column 'y', data row 2: is infinite"),
        ("x,y\n1,2\n-Infinity,1\n", "column 'x', data row 2: is infinite"),
        ("x,y\n1,2\n3,1e400\n", "column 'y', data row 2: is infinite"),
        ("x,y\n1,2\n3\n", "data row 2 has 1 cell(s), the header 2"),
        ("x,y\n1,2\n3,4,5\n", "data row 2 has 3 cell(s), the header 2"),
        ("x,y\n1,2\n3,4,\n", "data row 2 has 3 cell(s), the header 2"),
        ("x,y\n1,2\n   \n", "data row 2 has 1 cell(s), the header 2"),
        (b"x,y\n1,2\n\xe4,4\n", "not a UTF-8 text file"),
        (b"\xe4,y\n1,2\n", "not a UTF-8 text file"),
        ("x,y\n1,2\n".encode("utf-16"), "not a UTF-8 text file"),
        (b"PK\x03\x04\x14\x00\xff\xfe", "not a UTF-8 text file"),
    ],
)
def test_an_unusable_csv_file_is_refused(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    file = write(tmp_path, content)
    assert refused(file).startswith(problem)


def test_a_wrong_cell_far_down_is_found_by_its_row(tmp_path: Path) -> None:
    rows = [f'{index},"a\n""quoted"" note",{index}' for index in range(150_000)]
    rows[123_456] = '1,"x\ny",oops'
    file = write(tmp_path, "x,note,y\n" + "\n".join(rows) + "\n")
    message = refused(file, features=["x"])
    assert message == "column 'y', data row 123457: 'oops' is not a number"
    rows[123_456] = '1,"x\ny",'
    message = refused(write(tmp_path, "x,note,y\n" + "\n".join(rows)), features=["x"])
    assert message.startswith("column 'y', data row 123457: has no value; 1 of ")


def test_a_long_cell_is_shortened_in_the_error(tmp_path: Path) -> None:
    assert len(refused(write(tmp_path, "x,y\n1," + "z" * 100_000 + "\n"))) < 200
    assert "larger than field limit" in refused(write(tmp_path, "x,y\n1," + "z" * 200_000 + "\n"))


@pytest.mark.parametrize("value", ["1e300", "-3.5e38"])
def test_a_number_too_large_for_float32_is_refused(tmp_path: Path, value: str) -> None:
    file = write(tmp_path, f"x,y\n1,2\n3,{value}\n")
    message = refused(file, dtype=torch.float32)
    assert message.startswith(f"column 'y', data row 2: {float(value)!r} does not fit float32; ")
    assert read(file).targets[1].item() == float(value)


def test_missing_and_repeated_columns_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a,b,c\n1,2,3\n")
    assert refused(file, target=["d"]) == "no column 'd' (option target); the columns are a, b, c"
    assert refused(file, features=["A"]) == (
        "no column 'A' (option features); the columns are a, b, c"
    )
    assert refused(file, target=["a", "a"]) == "option target: column 'a' is named twice"
    assert refused(file, features=["c", "a"]) == "option features: column 'c' is also a target"
    assert "no feature column is left" in refused(file, target=["a", "b", "c"])


def test_a_path_without_a_table_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.csv") == "no such file"
    assert refused(tmp_path) == "is a folder; a .csv or .parquet file is needed"
    assert refused("") == "option data: is empty; a .csv or .parquet file is needed"
    assert refused(tmp_path / ("n" * 300)) == "File name too long"
    assert ("null byte", "null character")[sys.version_info >= (3, 13)] in refused("a\0b.csv")
    assert "home" in refused("~no-such-user-here/x.csv")
    assert refused(write(tmp_path, "x,y\n1,2\n") / "below.csv") == "Not a directory"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        assert refused(path) == "is a pipe or device; a file is needed, as it is read twice"


# Parquet


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


def test_parquet_numbers_of_every_type_are_read(tmp_path: Path) -> None:
    file = parquet(
        tmp_path,
        {
            "bool": [True, False],
            "small": pa.array([1, -2], pa.int8()),
            "big": pa.array([2**53, 3], pa.uint64()),
            "half": pa.array(np.array([0.5, 1.5], np.float16)),
            "single": pa.array([0.1, 0.2], pa.float32()),
            "money": pa.array([decimal.Decimal("1.25"), decimal.Decimal("2.50")]),
            "category": pa.array([7, 8]).dictionary_encode(),
            "sepal.length": [1.0, 2.0],
            "y": [3.0, 4.0],
        },
    )
    single = np.float32([0.1, 0.2]).astype(float).tolist()
    assert cells(read(file)) == [
        [1.0, 1.0, 2.0**53, 0.5, single[0], 1.25, 7.0, 1.0, 3.0],
        [0.0, -2.0, 3.0, 1.5, single[1], 2.5, 8.0, 2.0, 4.0],
    ]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([1, None]), "has no value"),
        (pa.array([True, None]), "has no value"),
        (pa.array([1.0, math.nan]), "has no value"),
        (pa.array([None, None], pa.float64()), "has no value"),
        (pa.array([1.0, math.inf]), "is infinite"),
        (pa.array(["1", "two"]), "'two' is not a number"),
        (pa.array([b"1", b"two"]), "b'two' is not a number"),
        (pa.array([[1], [2]]), "array([1]) is not a number"),
        (pa.array([{"a": 1}, {"a": 2}]), "{'a': 1} is not a number"),
        (pa.array([datetime(2026, 1, 1)] * 2), "'2026-01-01 00:00:00.000000' is not a number"),
    ],
)
def test_parquet_cells_that_are_not_numbers_are_refused(
    tmp_path: Path, column: Any, problem: str
) -> None:
    message = refused(parquet(tmp_path, {"x": column, "y": [1.0, 2.0]}))
    assert message.startswith("column 'x', data row ")
    assert message.endswith(problem)


def test_an_unusable_parquet_file_is_refused(tmp_path: Path) -> None:
    assert refused(parquet(tmp_path, {"x": pa.array([], pa.int64()), "y": []})) == (
        "has a header but no data row"
    )
    file = parquet(tmp_path, {"x": list(range(5000)), "y": [0.0] * 5000})
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-8], b"x,y\n1,2\n", whole[:4] + whole[100:]):
        file.write_bytes(damaged)
        assert "cannot be read as a table (" in refused(file)
    schema = pa.schema([("x", pa.int64()), ("x", pa.int64())])
    pq.write_table(pa.table([[1], [2]], schema=schema), file)
    assert refused(file) == "column 'x' appears more than once"


def test_the_index_of_a_pandas_frame_is_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, index=[5, 9])
    file = tmp_path / "table.parquet"
    for kept in (frame, frame.rename_axis("id"), frame.reset_index(drop=True)):
        kept.to_parquet(file)
        table = read(file)
        assert (table.columns.features, table.columns.targets) == (("x",), ("y",))
        assert cells(table) == [[1.0, 3.0], [2.0, 4.0]]


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "year=2026"
    folder.mkdir()
    file = parquet(folder, {"x": [1.0], "y": [2.0]})
    assert column_names(file) == ["x", "y"]
    with pytest.raises(DataError, match="no column 'year'"):
        list(read_parts(file, ["x"], ["year"], 9))


def test_times_in_nanoseconds_are_refused(tmp_path: Path) -> None:
    column = pa.array([1, 1000], pa.time64("ns"))
    message = refused(parquet(tmp_path, {"x": column, "y": [1.0, 2.0]}))
    assert message == "column 'x' is time64[ns], not numbers"


def test_a_parquet_file_without_columns_is_refused(tmp_path: Path) -> None:
    problem = "has no column, or only the row index that pandas writes"
    assert refused(parquet(tmp_path, {})) == problem
    frame = pd.DataFrame(index=pd.Index([1, 2], name="i"))
    frame.to_parquet(tmp_path / "table.parquet")
    assert refused(tmp_path / "table.parquet") == problem
    assert refused(tmp_path / "table.parquet", target=["i"]) == problem


@pytest.mark.parametrize(
    "metadata",
    [b"", b"{", b"[]", b"5", b"\xff", b'"index_columns"', b'{"index_columns": 3}', b"[" * 100_000],
)
def test_damaged_pandas_metadata_is_refused(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"x": [1.0], "y": [2.0]}).replace_schema_metadata({b"pandas": metadata})
    pq.write_table(table, tmp_path / "table.parquet")
    assert refused(tmp_path / "table.parquet") == (
        "the metadata of pandas is damaged; write the file again"
    )


def test_a_wrong_parquet_row_count_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parquet(tmp_path, {"x": [1.0, 2.0], "y": [3.0, 4.0]})
    for said, problem in (
        (1, "more rows than its metadata states"),
        (2**60, "do not fit in memory"),
    ):
        monkeypatch.setattr("runback.data.raw.most_rows", lambda _, said=said: said)
        assert problem in refused(file)


# Anything at all


PIECES = st.sampled_from(
    ["x", "y", "1", "2.5", "-3e2", "nan", ",", ",", ",", "\n", "\n", "\r", '"', '"4"', ";", " ", "\x00",
     "\ufeff", "é", "\t", "1" * 400]
)  # fmt: skip
BYTES = st.lists(PIECES, max_size=30).map(lambda parts: "x,y\n" + "".join(parts)).map(str.encode)


@given(BYTES | st.lists(PIECES, max_size=30).map("".join).map(str.encode) | st.binary(max_size=40))
def test_any_bytes_are_a_finite_table_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "anything.csv"
    file.write_bytes(content)
    try:
        table = read(file)
    except DataError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 1000
    else:
        assert len(table) > 0
        assert table.features.isfinite().all() and table.targets.isfinite().all()


# Frames, as predictions get them


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2]),
        pd.Series([1, 2], dtype="Int64"),
        pd.Series([1.0, 2.0], dtype="float64[pyarrow]"),
        pd.Series(["1", " 2.0 "]),
        pd.Series([1, "2"], dtype=object),
        pd.Series([1, 2], dtype="category"),
        pd.Series([decimal.Decimal(1), np.float32(2)], dtype=object),
    ],
)
def test_frame_numbers_of_any_dtype_are_read(column: Any) -> None:
    frame = pd.DataFrame({"other": ["a", "b"], "x": column})
    assert frame_to_tensor(frame, ["x"], torch.float32).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pd.Series([1, None]), "data row 2: has no value"),
        (pd.Series([1, pd.NA], dtype="Int64"), "data row 2: has no value"),
        (pd.Series([1, None], dtype=object), "data row 2: has no value"),
        (pd.Series(["1", ""]), "data row 2: has no value"),
        (pd.Series(["1", "b"]), "data row 2: 'b' is not a number"),
        (pd.Series([1j, 2j]), "data row 1: 1j is not a number"),
        (pd.Series(pd.to_datetime(["2026-01-01", "2026-01-02"])), "data row 1: '2026-01-01"),
        (pd.Series([1e300, 1.0]), "data row 1: 1e+300 does not fit float32"),
    ],
)
def test_frame_cells_that_are_not_numbers_are_refused(column: Any, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        frame_to_tensor(pd.DataFrame({"x": column}), ["x"], torch.float32, "here")
    assert str(caught.value).startswith(f"here: column 'x', {problem}")


def test_frame_columns_are_found_by_name() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=["b", 0, "a"])
    assert frame_to_tensor(frame, ["a", "0", "b"], torch.float64).tolist() == [[3.0, 2.0, 1.0]]
    with pytest.raises(DataError, match="table: no column 'c'; the columns are b, 0, a"):
        frame_to_tensor(frame, ["c"], torch.float64)
    twice = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "b"])
    assert frame_to_tensor(twice, ["b"], torch.float64).tolist() == [[3.0]]
    with pytest.raises(DataError, match="column 'a' appears more than once"):
        frame_to_tensor(twice, ["a"], torch.float64)
    assert frame_to_tensor(frame.iloc[:0], ["a"], torch.float64).shape == (0, 1)


def test_reading_in_parts_refuses_what_is_no_table(tmp_path: Path) -> None:
    for content in ("x,y\n1,2\n3\n", "x,y\n1,2\n3,4,5\n", b"\xff\xfe\x00"):
        with pytest.raises(DataError):
            list(read_parts(write(tmp_path, content), ["x"], (), 9))
    with pytest.raises(DataError, match="no such file"):
        list(read_parts(tmp_path / "missing.csv", ["x"], (), 9))


@pytest.mark.parametrize(
    "file", ["houses.csv", "houses.csv.gz", "houses.CSV.ZST", "houses.parquet"]
)
def test_a_data_name_has_no_endings(file: str) -> None:
    assert data_name(Path("data") / file) == "houses"
