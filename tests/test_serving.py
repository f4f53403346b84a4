"""A real model server in an environment without runback is bit-identical to `predict`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clean_env import CleanEnvironment
from finished_runs import FinishedRuns
from model_server import ask, serving
from runback.commands.predict import predict_file


@pytest.fixture
def served(
    finished_runs: FinishedRuns, tmp_path: Path, clean_env: CleanEnvironment
) -> Iterator[str]:
    """The address of a server of a user's module, in an environment without runback."""
    finished_runs.workspace.client.set_registered_model_alias("diabetes", "champion", "1")
    env = finished_runs.workspace.env
    with serving("models:/diabetes@champion", tmp_path, env, clean_env) as address:
        yield address


def test_the_server_answers_as_predict_does(
    served: str, finished_runs: FinishedRuns, tmp_path: Path
) -> None:
    frame = pd.read_csv(finished_runs.workspace.folder / "diabetes.csv").sample(
        frac=1, axis=1, random_state=1
    )
    frame = frame.drop(columns="progression")
    frame.to_csv(tmp_path / "in.csv", index=False)
    predict_file(finished_runs.ids["own"], str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"))
    expected = pd.read_parquet(tmp_path / "out.parquet")["progression"].to_numpy()
    split = json.dumps({"dataframe_split": frame.to_dict(orient="split")})
    records = json.dumps({"dataframe_records": frame.to_dict(orient="records")})
    inputs = json.dumps({"inputs": {name: frame[name].tolist() for name in frame}})
    bodies = [
        (split, "json"),
        (records, "json"),
        (inputs, "json"),
        (frame.to_csv(index=False), "csv"),
    ]
    for body, kind in bodies:
        mime = "text/csv" if kind == "csv" else "application/json"
        status, found = ask(served, body, mime)
        assert status == 200, found
        assert np.array_equal(np.array(found, dtype=np.float32), expected)
    whole = frame.astype(float).round().astype(int)
    status, found = ask(
        served, json.dumps({"dataframe_split": whole.to_dict(orient="split")}), "application/json"
    )
    assert status == 200 and len(found) == len(frame)
    lacking = frame.drop(columns="bmi")
    for body, mime in (
        (json.dumps({"dataframe_split": lacking.to_dict(orient="split")}), "application/json"),
        (lacking.to_csv(index=False), "text/csv"),
    ):
        status, text = ask(served, body, mime)
        assert status == 400 and "bmi" in text and "missing" in text
