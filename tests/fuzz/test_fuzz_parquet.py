"""Parquet tables: all Arrow types, damaged metadata and damaged files."""

from __future__ import annotations

import decimal
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzzing import inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_tables import SPEC

from runback.commands.predict import _check_keep, _predicted
from runback.data.table import read_table
from runback.data.writers import write_csv, write_parquet
from runback.model.builtin import Linear
from runback.model.serving import Predictor

INTEGER = st.integers(-(2**63), 2**63 - 1)
KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): INTEGER,
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16),
    pa.bool_(): st.booleans(),
    pa.decimal128(20, 3): st.decimals(-(10**15), 10**15, places=3),
    pa.decimal256(60, 0): st.decimals(-(10**50), 10**50, places=0),
    pa.string(): st.one_of(st.integers().map(str), st.text(max_size=4)),
    pa.binary(): st.binary(max_size=3),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.integers(-(2**60), 2**60),
    pa.time64("ns"): st.integers(0, 86_399_999_999_999),
    pa.duration("ms"): st.integers(-(2**40), 2**40),
    pa.list_(pa.float64()): st.lists(st.floats(), max_size=2),
    pa.struct([("x", pa.int64())]): st.fixed_dictionaries({"x": INTEGER}),
    pa.map_(pa.string(), pa.int8()): st.just([]),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["a", "1"]),
    pa.null(): st.none(),
}
NUMERIC = [
    kind
    for kind in KINDS
    if pa.types.is_floating(kind)
    or pa.types.is_integer(kind)
    or pa.types.is_decimal(kind)
    or pa.types.is_boolean(kind)
]
NAMES = st.one_of(st.sampled_from(["x", "y", "x.x", "list", "element"]), st.text(max_size=3))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
COLUMN = st.one_of(
    JSON, st.fixed_dictionaries({"name": NAMES, "field_name": NAMES, "pandas_type": JSON})
)
PANDAS = st.one_of(
    st.none(),
    st.binary(max_size=6),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "index_columns": st.lists(NAMES | JSON, max_size=2),
            "columns": st.lists(COLUMN, max_size=2),
        }
    ).map(lambda value: json.dumps(value).encode()),
)


USUAL = ["x", "y", "x.x", "list", "é"]
INDEX = st.none() | st.lists(st.sampled_from([*USUAL, {"kind": "range"}]), max_size=1).map(
    lambda index: json.dumps({"index_columns": index, "columns": []}).encode()
)


def cells_of(kind: pa.DataType, finite: bool) -> st.SearchStrategy[Any]:
    cells = KINDS[kind]
    return cells.filter(math.isfinite) if finite and pa.types.is_floating(kind) else cells


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    usual = draw(st.integers(0, 3)) > 0
    names = (
        draw(st.permutations(USUAL))[: draw(st.integers(2, 4))]
        if usual
        else draw(st.lists(NAMES, max_size=4))
    )
    rows = draw(st.integers(int(usual), 4))
    kinds = [draw(st.sampled_from(NUMERIC if usual else list(KINDS))) for _ in names]
    missing = st.nothing() if usual else draw(st.sampled_from([st.nothing(), st.none()]))
    columns = [
        pa.array(
            draw(st.lists(missing | cells_of(kind, usual), min_size=rows, max_size=rows)), kind
        )
        for kind in kinds
    ]
    table = pa.table(columns, names) if names else pa.table({})
    pandas = draw(INDEX if usual else PANDAS)
    return table if pandas is None else table.replace_schema_metadata({b"pandas": pandas})


def number(value: Any) -> float:
    """A cell as the nearest float64."""
    if isinstance(value, decimal.Decimal):
        return float(value)
    return float(value)


@inputs(0.1)
@given(tables())
def test_a_parquet_table_is_read_exactly_or_refused(table: pa.Table) -> None:
    pq.write_table(table, "table.parquet")
    read = tried("Parquet", lambda: read_table("table.parquet", (), (), torch.float64))
    if read is None:
        return
    wanted = (*read.columns.features, *read.columns.targets)
    found = torch.cat((read.features, read.targets), dim=1)
    for index, name in enumerate(wanted):
        expected = [number(value) for value in table.column(name).to_pylist()]
        if pa.types.is_decimal(table.column(name).type):  # Arrow rounds twice: the last bit
            assert all(
                math.isclose(a, b, rel_tol=1e-15)
                for a, b in zip(found[:, index].tolist(), expected, strict=True)
            )
        else:
            assert found[:, index].tolist() == expected
    stored = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    assert not [name for name in wanted if name in stored.get("index_columns", [])]


@inputs(0.05)
@given(tables(), st.booleans())
def test_kept_parquet_columns_are_copied_or_refused(table: pa.Table, to_csv: bool) -> None:
    pq.write_table(table, "table.parquet")
    keep = [name for name in table.column_names if name != "x"][:2]
    predictor = Predictor(Linear(1, 1).double().eval(), SPEC)

    def written() -> int:
        _check_keep(keep, SPEC)
        parts = _predicted(predictor, Path("table.parquet"), keep)
        if to_csv:
            return write_csv(parts, str)
        with open("out.parquet", "wb") as file:
            return write_parquet(parts, file)

    if tried("Parquet", written) is not None and not to_csv:
        before, after = pq.read_table("table.parquet"), pq.read_table("out.parquet")
        for name in keep:
            assert after[name].type == before[name].type
            assert str(after[name].to_pylist()) == str(before[name].to_pylist())


@inputs(0.03)
@given(tables(), st.data())
def test_a_damaged_parquet_file_is_read_or_refused(table: pa.Table, data: st.DataObject) -> None:
    """Only the footer: pages have no checksum by default, so their bytes are what the file says."""
    pq.write_table(table, "table.parquet")
    content = bytearray(Path("table.parquet").read_bytes())
    size = int.from_bytes(content[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(len(content) - 8 - size, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    Path("table.parquet").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    tried("Parquet", lambda: read_table("table.parquet", (), (), torch.float64))
