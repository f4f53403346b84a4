"""`predict` takes tables of any size, keeps columns, and is bit-identical to the module."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import runback.commands.predict
from finished_runs import FinishedRuns
from runback import load_model, predict
from runback.cli import main
from runback.commands.predict import predict_file
from runback.errors import UsageError


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    numbers = np.random.default_rng(seed)
    return pd.DataFrame(
        {"id": [f"{n:05}" for n in range(rows)], "x": numbers.normal(size=rows), "z": 1}
    )


def expected(finished_runs: FinishedRuns, name: str, frame: pd.DataFrame) -> list[float]:
    with torch.no_grad():
        x = torch.tensor(frame[["x"]].to_numpy(), dtype=torch.float32)
        return load_model(finished_runs.ids[name])(x)[:, 0].tolist()


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("target", ["out.csv", "out.parquet"])
def test_predict_equals_the_module_bit_for_bit(
    finished_runs: FinishedRuns, tmp_path: Path, source: str, target: str
) -> None:
    frame = table(1000)
    file = tmp_path / source
    if source.endswith("csv"):
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file, row_group_size=77)
    assert (
        predict_file(finished_runs.ids["strong"], str(file), str(tmp_path / target), ["id"]) == 1000
    )
    if target.endswith("csv"):
        found = pd.read_csv(tmp_path / target, dtype={"id": str, "y": np.float32})
    else:
        found = pd.read_parquet(tmp_path / target)
    assert list(found.columns) == ["id", "y"] and found["y"].dtype == np.float32
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["y"].tolist() == expected(finished_runs, "strong", frame)


def test_predict_refuses_to_overwrite_its_table(
    finished_runs: FinishedRuns, tmp_path: Path
) -> None:
    file = tmp_path / "in.csv"
    table(3).to_csv(file, index=False)
    before = file.read_bytes()
    (tmp_path / "link.csv").symlink_to(file)
    for output in (file, tmp_path / "link.csv"):
        with pytest.raises(UsageError, match="is the table itself; use another file"):
            predict_file(finished_runs.ids["strong"], str(file), str(output))
    assert file.read_bytes() == before


def test_a_kept_column_named_twice_is_refused(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    table(3).to_csv(file, index=False)
    with pytest.raises(UsageError, match="--keep id,id: names a column twice"):
        predict_file(finished_runs.ids["strong"], str(file), "", ["id", "id"])


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
def test_predictions_in_blocks_equal_those_of_one_block(
    finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    frame, file = table(101), tmp_path / source
    if source.endswith("csv"):
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file, row_group_size=7)
    sizes = []
    real = runback.commands.predict.read_parts

    def watched(*arguments: object) -> object:
        for part in real(*arguments):  # type: ignore[arg-type]
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(runback.commands.predict, "read_parts", watched)
    monkeypatch.setattr(runback.commands.predict, "CHUNK_ROWS", 10)
    predict_file(finished_runs.ids["strong"], str(file), str(tmp_path / "out.csv"), ["id"])
    found = pd.read_csv(tmp_path / "out.csv", dtype={"id": str, "y": np.float32})
    assert sizes == [10] * 10 + [1]
    assert found["id"].tolist() == frame["id"].tolist()
    np.testing.assert_allclose(found["y"], expected(finished_runs, "strong", frame), rtol=1e-6)


def test_predict_prints_csv_and_the_row_count(
    finished_runs: FinishedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"z": ["a", "b", "c"], "x": [1, 5, 11]})
    frame.to_csv(tmp_path / "in.csv", index=False)
    options = ["--data", str(tmp_path / "in.csv"), "--keep", "x,z"]
    assert main(["predict", finished_runs.ids["strong"], *options]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "x,z,y"
    assert [line.rpartition(",")[0] for line in lines[1:]] == ["1,a", "5,b", "11,c"]
    found = [float(np.float32(line.rpartition(",")[2])) for line in lines[1:]]
    assert found == [row[0] for row in finished_runs.answers["strong"]]
    assert "predicted 3 rows" in printed.err


def test_predict_takes_one_row_and_no_row(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    for rows in (1, 0):
        for suffix in ("csv", "parquet"):
            file, out = tmp_path / f"in{rows}.{suffix}", tmp_path / f"out{rows}.{suffix}"
            frame = table(rows).astype({"x": "float64"})
            frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
            assert predict_file(finished_runs.ids["strong"], str(file), str(out)) == rows
            found = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
            assert list(found.columns) == ["y"] and len(found) == rows


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ("a,b\n1,2\n", [], "no column 'x'; the columns are a, b"),
        ("x\n" + "1\n" * 25 + "oops\n1\n", [], "column 'x', data row 26: 'oops' is not a number"),
        ("x\n" + "1\n" * 25 + "inf\n" + "1\n" * 9, [], "column 'x', data row 26: is infinite"),
        ("x\n" + "1\n" * 25 + "1,2\n", [], "data row 26 has 2 cell(s)"),
        ("x\n1\n", ["--keep", "id"], "no column 'id' (option keep)"),
        ("x,y\n1,2\n", ["--keep", "y"], "the predictions have a column of that name"),
        ("x\n1\n", ["--output", "no/such/out.csv"], "no such folder"),
        ("x\n1\n", ["--output", "out.xlsx"], "neither a .csv nor a .parquet"),
        ("", [], "the file is empty"),
    ],
)  # fmt: skip
def test_a_predict_error_names_it_and_leaves_no_file(
    finished_runs: FinishedRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    options: list[str],
    problem: str,
) -> None:
    monkeypatch.setattr(runback.commands.predict, "CHUNK_ROWS", 10)
    (tmp_path / "in.csv").write_text(content)
    output = [] if "--output" in options else ["--output", "out.csv"]
    command = ["predict", finished_runs.ids["strong"], "--data", "in.csv", *output, *options]
    assert main(command) == 2
    assert problem in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]


def test_predict_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """The peak memory of Arrow does not depend on the number of rows."""

    def most_held(rows: int) -> int:
        table(rows).to_parquet(tmp_path / "in.parquet", row_group_size=10_000)
        before, held = pa.total_allocated_bytes(), []
        for part in runback.commands.predict.read_parts(
            tmp_path / "in.parquet", ["x"], ["id"], 20_000
        ):
            held.append(pa.total_allocated_bytes() - before)
            assert len(part) == 20_000
        return max(held)

    few, many = most_held(200_000), most_held(600_000)
    assert many < 1.5 * few, (few, many)


def test_pyfunc_equals_predict_beyond_one_block(
    finished_runs: FinishedRuns, tmp_path: Path
) -> None:
    numbers = np.random.default_rng(1)
    signature = mlflow.models.get_model_info(f"runs:/{finished_runs.ids['own']}/model").signature
    names = signature.inputs.input_names()
    frame = pd.DataFrame(numbers.normal(size=(70_000, len(names))), columns=names)
    frame.to_parquet(tmp_path / "in.parquet")
    predict_file(
        finished_runs.ids["own"], str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")
    )
    found = pd.read_parquet(tmp_path / "out.parquet").iloc[:, 0].to_numpy()
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['own']}/model")
    assert np.array_equal(model.predict(frame), found)


def test_a_missing_number_becomes_the_training_median(finished_runs: FinishedRuns) -> None:
    run = finished_runs.ids["strong"]
    (file,) = (finished_runs.workspace.home(run) / "model").rglob("model.json")
    spec = json.loads(file.read_text())
    frames = (pd.DataFrame({"x": [value]}) for value in (None, spec["columns"][0]["median"]))
    one, two = (predict(run, frame)["y"].tolist() for frame in frames)
    assert one == two
