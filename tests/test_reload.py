"""Loading models: by every name of a run, in another environment, bit-identical to the training."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from clean_env import CleanEnvironment
from conftest import PROGRAMS
from finished_runs import FinishedRuns
from runback import load_model
from runback.commands.evaluate import evaluate
from runback.commands.predict import predict
from runback.commands.reproduce import weights_digest
from runback.errors import ConfigError, DataError, RunNotFoundError
from runback.tracking.find_run import find_run

PROBE = torch.tensor([[1.0], [5.0], [11.0]])


@pytest.mark.parametrize(
    "name", ["{id}", "{prefix}", "runs:/{id}", "models:/table/{version}", "models:/table@best"]
)
def test_every_name_of_a_run_loads_the_same_weights(finished_runs: FinishedRuns, name: str) -> None:
    run_id = finished_runs.ids["strong"]
    (version,) = finished_runs.workspace.client.search_model_versions(
        f"run_id = '{run_id}' AND name = 'table'"
    )
    finished_runs.workspace.client.set_registered_model_alias("table", "best", version.version)
    run = name.format(id=run_id, prefix=run_id[:12], version=version.version)
    module = load_model(run)
    assert not module.training
    with torch.no_grad():
        assert module(PROBE).tolist() == finished_runs.answers["strong"]


def test_latest_is_the_newest_run(finished_runs: FinishedRuns) -> None:
    (last,) = finished_runs.workspace.client.search_runs(
        ["0"],
        filter_string="tags.`runback.version` != ''",  # other tests make runs that are not ours
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    latest, named = load_model("latest"), load_model(last.info.run_id)
    assert weights_digest(latest) == weights_digest(named)


def test_pyfunc_agrees_by_run_and_by_version(finished_runs: FinishedRuns) -> None:
    frame = pd.DataFrame({"x": PROBE[:, 0].double()})
    for uri in (f"runs:/{finished_runs.ids['strong']}/model", "models:/table/2"):
        found = mlflow.pyfunc.load_model(uri).predict(frame)
        assert found.dtype == np.float32
        assert found.tolist() == [row[0] for row in finished_runs.answers["strong"]]


def test_a_user_module_loads_without_file_and_runback(
    finished_runs: FinishedRuns, clean_env: CleanEnvironment
) -> None:
    """Its class was renamed, and the sibling that it imports was broken, after the training."""
    run_id, expected = finished_runs.ids["own"], [row[0] for row in finished_runs.answers["own"]]
    rows = torch.arange(30.0).reshape(3, 10) / 7
    with torch.no_grad():
        assert load_model(run_id)(rows)[:, 0].tolist() == expected
    uri = f"runs:/{run_id}/model"
    columns = mlflow.models.get_model_info(uri).signature.inputs.input_names()
    frame = {name: rows[:, index].tolist() for index, name in enumerate(columns)}
    program = PROGRAMS / "load_model_without_runback.py"
    folder, env = finished_runs.workspace.folder, finished_runs.workspace.env
    done = clean_env.run(str(program), uri, json.dumps(frame), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(expected)


def test_the_stored_code_wins_over_imported_modules(
    finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nets", "layers"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    import layers  # type: ignore[import-not-found]
    import nets  # type: ignore[import-not-found]

    module = load_model(finished_runs.ids["own"])
    assert {type(part).__name__ for part in module.modules()} >= {"Net", "Block"}
    assert sys.modules["nets"] is nets and sys.modules["layers"] is layers and nets.mine
    for name in ("nets", "layers"):
        del sys.modules[name]


def test_two_targets_give_two_columns_in_row_order(
    finished_runs: FinishedRuns,
) -> None:
    frame = pd.DataFrame({"x2": [2, 1], "x1": [1, 3]}, index=[7, 3])
    found = predict(finished_runs.ids["pair"], frame)
    assert list(found.columns) == ["y1", "y2"] and list(found.index) == [7, 3]
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['pair']}/model")
    pd.testing.assert_frame_equal(model.predict(frame), found)
    assert "mlflow.pyfunc" in sys.modules and len(model.predict(frame.iloc[:0])) == 0


def test_unknown_runs_are_refused(finished_runs: FinishedRuns) -> None:
    for name in ("0" * 32, "models:/table/99", "models:/table@nobody", "models:/nothing/1"):
        with pytest.raises(RunNotFoundError):
            load_model(name)
    for name in (
        "abc",
        "models:/table",
        "models:/table/latest",
        "models:/m-1",
        "file:///x",
        "a'bcd",
    ):
        with pytest.raises(RunNotFoundError, match="RUN is a run ID, a unique prefix of one"):
            find_run(finished_runs.workspace.client, name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_loading_to_a_missing_device_is_refused(finished_runs: FinishedRuns) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        load_model(finished_runs.ids["strong"], device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_goes_from_cpu_to_gpu_and_back(finished_runs: FinishedRuns) -> None:
    on_gpu = load_model(finished_runs.ids["strong"], device="cuda")
    assert next(on_gpu.parameters()).is_cuda
    with torch.no_grad():
        found = on_gpu(PROBE.cuda()).cpu()
    torch.testing.assert_close(found, torch.tensor(finished_runs.answers["strong"]))
    run_id = finished_runs.workspace.runback(
        "train", "--data", "table.csv", "--epochs", "5", "--device", "cuda"
    ).stdout.strip()
    weights = load_model(run_id, device="cpu").state_dict()
    assert all(value.device.type == "cpu" for value in weights.values())


def test_a_missing_table_is_named_with_its_path(finished_runs: FinishedRuns) -> None:
    gone = re.escape(str(finished_runs.workspace.folder / "pair.csv"))
    with pytest.raises(DataError, match=f"{gone}: the run's table does not exist, and no copy"):
        evaluate(finished_runs.ids["pair"])
