"""A table of 1,000,000 rows x 30 columns, ten of them texts: reading, fitting and encoding it.

    python -m benchmarks.encoding

What is measured is `prepare_table`, with which `runback train` begins: the CSV file is read, split
at random, its columns are found from the training rows, and all rows are encoded. Beside it pandas
reads the same file, which is no more than the first of these. `--quick` takes a tenth of the rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Aim,
    child,
    in_turn,
    measured,
    median,
    options,
    publish,
    ratio,
    table,
)

ROWS, QUICK_ROWS, ROUNDS = 1_000_000, 100_000, 5
NUMBERS = [f"x{index}" for index in range(20)]
# The number of different texts of each column; every third column has missing cells.
CATEGORIES = {
    f"c{index}": size for index, size in enumerate((2, 3, 5, 8, 12, 20, 40, 80, 150, 250))
}
MISSING_SHARE = 0.03
PART = 50_000  # rows
OURS, PANDAS, ARROW = "runback", "pandas", "pandas, engine pyarrow"


def write_table(path: Path, rows: int) -> None:
    """A CSV of normal numbers with five decimals, of texts, and of a number to predict."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    random = np.random.default_rng(0)
    names = [*NUMBERS, *CATEGORIES, "y"]
    kinds = [pa.float64() if n in NUMBERS or n == "y" else pa.string() for n in names]
    form = pacsv.WriteOptions(quoting_style="needed")
    with pacsv.CSVWriter(
        path, pa.schema(zip(names, kinds, strict=True)), write_options=form
    ) as file:
        for low in range(0, rows, PART):
            n_rows = min(PART, rows - low)
            x = random.standard_normal((n_rows, len(NUMBERS))).round(5)
            texts = [texts_of(random, number, n_rows) for number in range(len(CATEGORIES))]
            y = (x[:, 0] + random.standard_normal(n_rows)).round(5)
            file.write_batch(pa.record_batch([*x.T, *texts, y], names=names))


def texts_of(random: np.random.Generator, number: int, n_rows: int) -> Any:
    """The cells of a column: some texts are more frequent than others, as in real tables."""
    import pyarrow as pa

    size = [*CATEGORIES.values()][number]
    shares = 1 / np.arange(1, size + 1)
    codes = random.choice(size, n_rows, p=shares / shares.sum())
    gaps = random.random(n_rows) < (MISSING_SHARE if number % 3 == 0 else 0)
    values = pa.array([f"value {number}-{code}" for code in range(size)])
    return values.take(pa.array(codes, mask=gaps))


# What runs in a process of its own


def reading(which: str, path: str) -> dict[str, float]:
    """Reads the table once; the libraries are imported and used before."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        write_table(small, 1000)
        _read(which, str(small))
    return measured(partial(_read, which, path))


def _read(which: str, path: str) -> object:
    import pandas as pd
    import torch

    from runback.config import TrainConfig
    from runback.data.prepare import prepare_table

    if which == OURS:
        return prepare_table(TrainConfig(data=path, model="mlp"), torch.float32)
    return pd.read_csv(path) if which == PANDAS else pd.read_csv(path, engine="pyarrow")


def width(path: Path) -> int:
    """The columns of the encoded tensors, the target's included."""
    import torch

    from runback.config import TrainConfig
    from runback.data.prepare import prepare_table

    found = prepare_table(TrainConfig(data=str(path), model="mlp"), torch.float32).table
    return found.features.shape[1] + found.targets.shape[1]


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(reading(*sys.argv[2:])))
        return
    quick = options(__doc__).quick
    rows, rounds = (QUICK_ROWS, 1) if quick else (ROWS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "table.csv", Path(folder) / "small.csv"
        write_table(path, rows)
        write_table(small, PART)
        one = partial(child, "benchmarks.encoding", "--child")
        found = in_turn(
            {name: partial(one, name, str(path)) for name in (OURS, PANDAS, ARROW)}, rounds
        )
        report(rows, path.stat().st_size, width(small), found)


def report(rows: int, size: int, columns: int, found: dict[str, list[dict[str, float]]]) -> None:
    """The table and the aims."""
    tensors = rows * columns * 4 / 2**20
    seconds = {k: [r["seconds"] for r in v] for k, v in found.items()}
    peak = {k: median(r["peak"] for r in v) for k, v in found.items()}
    lines = [
        (k, f"{median(seconds[k]):.2f}", f"{ratio(seconds[k], seconds[PANDAS]):.2f}",
         f"{ratio(seconds[k], seconds[ARROW]):.2f}", f"{peak[k]:,.0f}", f"{peak[k] / tensors:.2f}")
        for k in found
    ]  # fmt: skip
    aims = [
        Aim("Reading, fitting and encoding, of `pandas.read_csv`",
            ratio(seconds[OURS], seconds[PANDAS]), 1.5),
        Aim("Peak memory, of the encoded tensors", peak[OURS] / tensors, 3),
    ]  # fmt: skip
    body = [
        f"{rows:,} rows x {len(NUMBERS)} columns of numbers and {len(CATEGORIES)} of texts "
        f"({min(CATEGORIES.values())} to {max(CATEGORIES.values())} different ones; every third "
        f"column has {MISSING_SHARE:.0%} missing cells) and a target, CSV of {size / 2**20:.0f} MiB; "
        f"float32 tensors of {tensors:.0f} MiB. runback reads, fits and encodes; pandas only reads, "
        "with its default parser and with Arrow's, which uses all cores. Peak memory is the "
        "process's largest resident size less that before reading, libraries loaded.",
        "",
        *table(("", "s", "x pandas", "x engine pyarrow", "peak, MiB", "x tensors"), lines),
        "",
        *[aim.line() for aim in aims],
    ]
    publish("encoding", "Encoding", body, ("pandas", "pyarrow"))


if __name__ == "__main__":
    main()
