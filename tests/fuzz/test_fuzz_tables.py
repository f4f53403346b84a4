"""CSV tables: what is read equals what Python's own csv module and float() read."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import torch
from fuzzing import inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from runback.commands.predict import _predicted
from runback.data.table import Table, read_table
from runback.data.writers import write_csv
from runback.model.builtin import Linear
from runback.model.serving import Predictor
from runback.model.spec import ModelSpec

SPEC = ModelSpec("regression", "linear", {}, ("x",), ("y",), "none", "float64")
FINITE = {"allow_nan": False, "allow_infinity": False}
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str), st.floats(**FINITE).map(repr),
    st.decimals(-(10**9), 10**9, **FINITE).map(str),
    st.sampled_from(["-0", "+1", "1.", ".5", " 2 ", "1e-400", "007", "1E5", "4.35"]),
)  # fmt: skip
ODD = st.one_of(st.text(max_size=5), st.sampled_from(
    ["", "NA", "true", "None", "a,b", 'q"', "\r", "1e400", "1_000", "0x10", "\uff11", "NaN", "inf"]
))  # fmt: skip
CELLS = st.one_of(*[NUMBERS] * 9, ODD)
USUAL = ["x", "y", "a b", "é", "x,y", 'q"']
NAMES = st.one_of(st.sampled_from(USUAL), st.text(max_size=4))


@st.composite
def files(draw: st.DrawFn) -> tuple[list[list[str]], bytes]:
    """Rows of cells, and a CSV file of them."""
    usual = draw(st.integers(0, 3)) > 0
    width = draw(st.integers(2 if usual else 1, 4))
    listed = (
        draw(st.permutations(USUAL)) if usual else draw(st.lists(NAMES, min_size=4, max_size=4))
    )
    names = listed[:width]
    cells = NUMBERS if usual else CELLS
    rows = draw(
        st.lists(st.lists(cells, min_size=width, max_size=width), min_size=usual, max_size=6)
    )
    text = io.StringIO()
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(text, lineterminator=ending, quoting=quoting).writerows([names, *rows])
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return [names, *rows], (mark + text.getvalue()).encode(errors="replace")


def check(table: Table, rows: list[list[str]]) -> None:
    """The table has the numbers of the rows, exactly; all are finite."""
    names, *cells = rows
    names = [name.strip() for name in names]
    wanted = (*table.columns.features, *table.columns.targets)
    assert set(wanted) == set(names)
    expected = [[float(row[names.index(name)]) for name in wanted] for row in cells]
    found = torch.cat((table.features, table.targets), dim=1).tolist()
    assert found == expected
    assert all(math.isfinite(value) for row in found for value in row)


@inputs(0.16)
@given(files())
def test_a_table_is_read_exactly_or_refused(content: tuple[list[list[str]], bytes]) -> None:
    rows, text = content
    file = Path("table.csv")
    file.write_bytes(text)
    table = tried("CSV tables", lambda: read_table(file, (), (), torch.float64))
    if table is not None:
        check(table, rows)


@inputs(0.08)
@given(files(), st.data())
def test_a_damaged_table_is_read_exactly_or_refused(
    content: tuple[list[list[str]], bytes], data: st.DataObject
) -> None:
    """Bytes are replaced, inserted and removed: the oracle is the csv module."""
    damaged = bytearray(content[1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b",", b'"', b"\n", b"\r", b"\0"]))
        )
    file = Path("table.csv")
    file.write_bytes(damaged)
    table = tried("CSV tables", lambda: read_table(file, (), (), torch.float64))
    if table is not None:
        text = io.StringIO(damaged.decode("utf-8-sig"), newline="")
        check(table, [row for row in csv.reader(text) if row])


@inputs(0.04)
@given(files(), st.sampled_from(["x", "y", "a b", "é"]))
def test_kept_cells_are_copied_or_refused(
    content: tuple[list[list[str]], bytes], keep: str
) -> None:
    rows, text = content
    file = Path("table.csv")
    file.write_bytes(text)
    parts: list[str] = []
    predictor = Predictor(Linear(1, 1).double().eval(), SPEC)
    written = tried(
        "CSV tables", lambda: write_csv(_predicted(predictor, file, [keep]), parts.append)
    )
    if written is not None:
        index = [name.strip() for name in rows[0]].index(keep)
        found = [row[0] for row in csv.reader(io.StringIO("".join(parts), newline=""))]
        assert found == [keep, *(row[index] for row in rows[1:])]
