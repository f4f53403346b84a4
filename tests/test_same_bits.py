"""The same rows give the same bits, however they are read: as a file, a frame, or JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmarks.real_tables import TABLES
from mlflow.pyfunc.scoring_server import infer_and_parse_data

import runback
from clean_env import CleanEnvironment
from conftest import PROGRAMS, Workspace
from model_server import ask, serving
from runback.columns.tensors import frame_to_tensor
from runback.config import TrainConfig
from runback.data.table import read_table
from runback.model.batched_forward import predict_rows
from runback.model.closure import PACKAGE, travelling_files
from runback.model.serving import Predictor
from runback.model.spec import save_model
from runback.training.setup import TrainingSetup, prepare

ROWS = 400  # of a table


def prepared(name: str, folder: Path) -> tuple[pd.DataFrame, TrainingSetup]:
    """Rows of a real table, and an untrained module with columns fitted on them."""
    real = TABLES[name]
    frame = real.frame()
    frame = frame.iloc[:: max(1, len(frame) // ROWS)].reset_index(drop=True)
    file = folder / f"{name}.csv"
    frame.to_csv(file, index=False)
    features = ["*", *(f"-{leak}" for leak in real.leaks)]
    options: dict[str, Any] = {"data": str(file), "target": [real.target], "features": features}
    setup = prepare(TrainConfig.from_mapping({**options, "model": "mlp"}))
    setup.state.model.eval()
    return frame, setup


@pytest.fixture(scope="module", params=TABLES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, TrainingSetup]:
    return prepared(request.param, tmp_path_factory.mktemp("table"))


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns in another order."""
    return frame[list(frame.columns[::-1])]


def tensor_of(frame: pd.DataFrame, setup: TrainingSetup) -> torch.Tensor:
    spec = setup.built.spec
    return frame_to_tensor(frame, spec.features, spec.torch_dtype, columns=spec.columns)


def as_server(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as MLflow's model server parses it."""
    body = json.dumps({"dataframe_split": json.loads(frame.to_json(orient="split", index=False))})
    return infer_and_parse_data(json.loads(body), schema=None)


def test_every_source_gives_the_same_tensors(
    trained: tuple[pd.DataFrame, TrainingSetup], tmp_path: Path
) -> None:
    frame, setup = trained
    expected = setup.table.features
    assert len(expected) > 100 and expected.isfinite().all()
    spec = setup.built.spec
    for order, rows in enumerate((frame, shuffled(frame))):
        rows.to_csv(tmp_path / "rows.csv.gz", index=False)
        rows.to_parquet(tmp_path / "rows.parquet")
        for name in ("rows.csv.gz", "rows.parquet"):
            table = read_table(
                tmp_path / name, spec.targets, spec.features, spec.torch_dtype, spec.columns,
                labels=spec.labels,
            )  # fmt: skip
            assert torch.equal(table.features, expected), (name, order)
            assert torch.equal(table.targets.to(setup.table.targets.dtype), setup.table.targets)
        assert torch.equal(tensor_of(rows, setup), expected), order
        features = rows[[name for name in rows if name in spec.features]]
        assert torch.equal(tensor_of(as_server(features), setup), expected), order


def test_every_source_gives_the_same_predictions(
    trained: tuple[pd.DataFrame, TrainingSetup],
) -> None:
    frame, setup = trained
    predictor = Predictor(setup.state.model, setup.built.spec)
    output = predict_rows(setup.state.model, setup.table.features)
    expected = setup.task.decode(output, setup.built.spec.target_columns)
    for rows in (frame, shuffled(frame), as_server(frame[list(setup.built.spec.features)])):
        pd.testing.assert_frame_equal(predictor.predict_frame(rows), expected, check_exact=True)


def test_without_runback_predictions_are_the_same_bits(
    tmp_path: Path, clean_env: CleanEnvironment
) -> None:
    """All tables in one process: it takes seconds to start."""
    clean_env.require_no_runback()
    for file in travelling_files():
        (tmp_path / "code" / "runback" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, tmp_path / "code" / "runback" / file)
    tasks, expected = [], {}
    for name, real in TABLES.items():
        frame, setup = prepared(name, tmp_path)
        model = tmp_path / f"model-{name}"
        save_model(model, setup.built, setup.state.model.state_dict())
        shuffled(frame).to_parquet(tmp_path / f"{name}.parquet")
        output = predict_rows(setup.state.model, setup.table.features)
        expected[name] = setup.task.decode(output, setup.built.spec.target_columns)[real.target]
        tasks.append([str(model), str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}.out")])
    program = str(PROGRAMS / "predict_tables.py")
    arguments = (str(tmp_path / "code"), json.dumps(tasks))
    done = clean_env.run(program, *arguments, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "code" / "runback" / "__init__.py")
    for name, _, file in ((name, *task[1:]) for name, task in zip(TABLES, tasks, strict=True)):
        found = pd.read_parquet(file)["y"]
        assert found.tolist() == expected[name].tolist(), name


def test_a_model_server_gives_the_same_bits_for_a_raw_table(
    workspace: Workspace, clean_env: CleanEnvironment
) -> None:
    frame = TABLES["wage"].frame().head(300)
    run = runback.train(frame, target="wage", features=["*", "-logwage"], epochs=2, register="wage")
    expected = runback.predict(run.run_id, frame)["wage"].tolist()
    rows = shuffled(frame.drop(columns=["wage", "logwage"]))
    with serving("models:/wage/1", workspace.folder, workspace.env, clean_env) as address:
        split = json.loads(rows.to_json(orient="split", index=False))
        status, found = ask(address, json.dumps({"dataframe_split": split}))
        assert (status, found) == (200, expected)
        status, found = ask(address, rows.to_csv(index=False), "text/csv")
        assert (status, found) == (200, expected)
