"""Columns that give the target away are named before the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import DATA, Workspace
from runback.config import TrainConfig
from runback.training.leaks import leaking_columns
from runback.training.setup import prepare


def leaks(data: str, **options: object) -> list[str]:
    setup = prepare(
        TrainConfig.from_mapping({"data": data, "epochs": 1, "device": "cpu", **options})
    )
    layout, table = setup.built.spec.layout.columns, setup.table
    return leaking_columns(layout, table.features, table.targets, setup.split.train)


def table(folder: Path, **columns: object) -> str:
    random = np.random.default_rng(0)
    size = random.normal(50, 9, 200)
    price = size * 3 + random.normal(0, 1, 200)
    frame = pd.DataFrame({"size": size, "rooms": random.integers(1, 6, 200), "price": price})
    frame = frame.assign(kind=np.where(price > 150, "high", np.where(price > 120, "mid", "low")))
    frame.assign(**columns).to_csv(folder / "t.csv", index=False)
    return str(folder / "t.csv")


def test_a_number_that_is_the_target_is_named(tmp_path: Path) -> None:
    data = table(tmp_path)
    frame = pd.read_csv(data)
    assert leaks(data, target="price") == []
    other = table(tmp_path, euros=-frame["price"] * 0.9 + 4, near=frame["price"] + frame["rooms"])
    assert leaks(other, target="price") == ["euros"]


def test_a_category_that_is_the_class_is_named(tmp_path: Path) -> None:
    frame = pd.read_csv(table(tmp_path))
    code = frame["kind"].map({"high": "H", "mid": "M", "low": "L"})
    mixed = code.where(frame.index % 40 > 0, "H")
    number = frame["kind"].map({"high": 7, "mid": 1, "low": 5})
    data = table(tmp_path, code=code, number=number, mixed=mixed)
    assert leaks(data, target="kind", features="size,rooms,code,number,mixed") == ["code", "number"]


@pytest.mark.parametrize("name", ["non_linear", "multiple_linear", "diabetes", "flowers"])
def test_no_example_table_is_warned_about(name: str) -> None:
    assert leaks(str(DATA / f"{name}.csv"), batch_size=2, split="1:0:0") == []


def test_an_exact_function_of_the_only_feature_is_fine(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(100), "y": range(0, 200, 2)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert leaks(str(tmp_path / "t.csv")) == []


def test_the_warning_names_the_column_in_one_line(workspace: Workspace) -> None:
    frame = pd.read_csv(table(workspace.folder))
    data = table(workspace.folder, euros=frame["price"] * 0.9)
    done = workspace.runback("train", "--data", data, "--target", "price", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "target" in line and "warning" in line)
    assert "column 'euros' alone determines the target" in line
    assert "--features=-euros" in line
