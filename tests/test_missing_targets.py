"""Rows without a target: refused with their number, or left out everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import runback
from conftest import Workspace
from runback.config import TrainConfig
from runback.data.prepare import Prepared, prepare_table
from runback.errors import ConfigError, DataError

N = 60
EMPTY = [0, 7, 8, 59]


def table(missing: list[int], kind: str = "number") -> pd.DataFrame:
    random = np.random.default_rng(5)
    frame = pd.DataFrame({"x": random.normal(size=N), "city": random.choice([*"abcdefgh"], N)})
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 99, N), "D")
    if kind == "number":
        y: Any = pd.Series(frame["x"] * 3)
    else:
        y = pd.Series(np.where(frame["x"] > 0, "high", "low"), dtype=object)
    y[missing] = None
    return frame.assign(y=y)


def written(folder: Path, frame: pd.DataFrame, ending: str = ".csv") -> str:
    file = folder / f"table{ending}"
    frame.to_csv(file, index=False) if ending == ".csv" else frame.to_parquet(file, index=False)
    return str(file)


def prepared(data: str, has_classes: bool | None = None, **options: Any) -> Prepared:
    config = TrainConfig(data=data, **{"missing_target": "drop", "model": "linear", **options})
    return prepare_table(config, torch.float64, has_classes)


@pytest.mark.parametrize("kind", ["number", "class"])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_row_without_a_target_is_refused_with_the_count(
    tmp_path: Path, kind: str, ending: str
) -> None:
    data = written(tmp_path, table([5, 9, 40], kind), ending)
    with pytest.raises(DataError) as caught:
        prepared(data, missing_target="refuse")
    assert str(caught.value) == (
        f"{data}: column 'y', data row 6: has no value; 3 of 60 rows have no target, and a training "
        "with --missing-target drop leaves them out"
    )


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("kind", "split"),
    [
        *(("number", rule) for rule in ("8:1:1", "time:day", "group:city:2:1:1")),
        ("class", "8:1:1"), ("class", "stratified:3:1:1"),
    ],
)  # fmt: skip
def test_dropped_rows_are_as_if_they_were_not_there(
    tmp_path: Path, kind: str, ending: str, split: str
) -> None:
    frame = table(EMPTY, kind)
    dropped = prepared(written(tmp_path, frame, ending), split=split)
    (tmp_path / "kept").mkdir()
    kept = prepared(written(tmp_path / "kept", frame.drop(EMPTY), ending), split=split)
    assert dropped.table.left_out == len(EMPTY) and kept.table.left_out == 0
    assert torch.equal(dropped.table.features, kept.table.features)
    assert torch.equal(dropped.table.targets, kept.table.targets)
    assert dropped.table.encoders == kept.table.encoders and dropped.labels == kept.labels
    assert dropped.split.as_json() == kept.split.as_json()
    assert dropped.example == kept.example


def test_a_row_needs_all_its_targets(tmp_path: Path) -> None:
    frame = table([3]).assign(z=np.arange(N, dtype=float))
    frame.loc[4, "z"] = np.nan
    found = prepared(written(tmp_path, frame), target=("y", "z"))
    assert found.table.left_out == 2
    assert found.table.targets[:, 1].tolist() == [v for v in range(N) if v not in (3, 4)]


def test_a_table_without_any_target_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path, table(list(range(N))).astype({"y": float}), ".parquet")
    with pytest.raises(DataError, match="no row has a value in 'y'"):
        prepared(data)


def test_errors_name_the_rows_of_the_file(tmp_path: Path) -> None:
    frame = table(EMPTY).astype({"x": object})
    frame.loc[30, "x"] = np.inf
    with pytest.raises(DataError, match="column 'x', data row 31: is infinite"):
        prepared(written(tmp_path, frame))
    frame = table(EMPTY).assign(part="train")
    frame.loc[20, "part"] = "other"
    with pytest.raises(DataError, match=r"row 18: .* \(rows without a target are not counted\)"):
        prepared(written(tmp_path, frame), split="column:part", target=("y",))


def test_a_dataset_cannot_drop_rows(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Data: pass\n")
    with pytest.raises(ConfigError, match="option missing_target: has no effect on a dataset"):
        prepared(f"{tmp_path}/own.py:Data", has_classes=False)


def test_a_run_leaves_the_rows_out_everywhere(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table(EMPTY, "class")
    data = written(workspace.folder, frame)
    options: dict[str, Any] = {"epochs": 4, "checkpoint_every": 2, "batch_size": 16}
    run = runback.train(data, missing_target="drop", **options).run_id
    assert "left out, as they have no target: 4 of 60 rows" in capsys.readouterr().err
    params = workspace.client.get_run(run).data.params
    assert (params["missing_target"], params["rows_without_target"]) == ("drop", "4")
    assert runback.evaluate(run).rows == 7  # 56 rows, 8:1:1
    assert runback.evaluate(run, data).rows == N - len(EMPTY)
    assert runback.evaluate(run, frame).rows == N - len(EMPTY)
    assert runback.resume(run, epochs=5).delivered
    assert runback.reproduce(run).equal
    assert len(runback.predict(run, frame)) == N
