"""The logged model: linked to its run, with metrics and description; accepts any numbers."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_schema

from conftest import DATA, Workspace
from finished_runs import FinishedRuns, make_runs
from runback import TrainConfig, load_model, train
from runback.commands.evaluate import evaluate
from runback.commands.promote import promote
from runback.errors import DataError, UsageError
from runback.tracking import registry
from runback.tracking.find_run import find_run
from tracking_parts import recorded


def test_the_logged_model_has_its_run_and_metrics(
    finished_runs: FinishedRuns,
) -> None:
    client, run_id = finished_runs.workspace.client, finished_runs.ids["strong"]
    run = client.get_run(run_id)
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("model", run_id, "READY")
    epoch = int(model.tags["runback.epoch"])
    figures = {metric.key: (metric.step, metric.value) for metric in model.metrics}
    for key in ("cost", "val_cost"):
        (point,) = [p for p in client.get_metric_history(run_id, key) if p.step == epoch]
        assert figures[key] == (epoch, point.value)
        assert len(client.get_metric_history(run_id, key)) == 60  # attaching adds no point
    for key, value in evaluate(run_id).scores.items():
        assert figures[f"test_{key}"] == (epoch, value)
    ranked = client.search_logged_models(
        [run.info.experiment_id],
        filter_string="metrics.test_rmse < 100000",
        order_by=[{"field_name": "metrics.test_rmse", "ascending": True}],
    )
    assert output.model_id in {found.model_id for found in ranked}


def test_the_version_describes_its_weights(finished_runs: FinishedRuns) -> None:
    client, run_id = finished_runs.workspace.client, finished_runs.ids["strong"]
    (version,) = client.search_model_versions(f"run_id = '{run_id}' AND name = 'table'")
    assert f"epoch {version.tags['runback.epoch']} of run {run_id}" in version.description
    assert "lowest val_cost" in version.description
    assert version.tags["runback.data_fingerprint"] == recorded(client, run_id)["data_fingerprint"]
    assert len(version.tags["runback.config_sha256"]) == 64
    found = evaluate(f"models:/table/{version.version}")
    assert found.epoch == int(version.tags["runback.epoch"])


def test_a_copied_version_loads_the_same_model(finished_runs: FinishedRuns) -> None:
    client = finished_runs.workspace.client
    (version,) = client.search_model_versions(
        f"run_id = '{finished_runs.ids['weak']}' AND name = 'table'"
    )
    client.copy_model_version(f"models:/table/{version.version}", "copied")
    x = torch.tensor([[1.0], [5.0], [11.0]])
    with torch.no_grad():
        assert load_model("models:/copied/1")(x).tolist() == finished_runs.answers["weak"]
    assert promote("models:/copied/1").model == "copied"
    assert client.get_model_version_by_alias("copied", "champion").version in (1, "1")


def test_a_registered_name_may_hold_quotes(
    workspace: Workspace,
) -> None:
    """MLflow quotes names in its search filters."""
    table = workspace.folder / 'it\'s @ "table".csv'
    shutil.copyfile(DATA / "non_linear.csv", table)
    run_id = train(TrainConfig(data=str(table), epochs=1)).run_id
    name = 'it\'s _ "table"'
    assert workspace.client.get_model_version(name, "1").run_id == run_id
    assert promote(f"models:/{name}/1").moved
    assert evaluate(f"models:/{name}@champion").run_id == run_id
    workspace.client.copy_model_version(f"models:/{name}/1", "a@b")
    assert find_run(workspace.client, "models:/a@b/1").run_id == run_id
    workspace.client.delete_registered_model("a@b")
    workspace.client.delete_registered_model(name)
    with pytest.raises(UsageError, match="its model is not registered yet"):
        promote(run_id)


def test_a_model_has_pins_signature_and_example(finished_runs: FinishedRuns) -> None:
    info = mlflow.models.get_model_info(f"runs:/{finished_runs.ids['own']}/model")
    folder = mlflow.artifacts.download_artifacts(f"runs:/{finished_runs.ids['own']}/model")
    pins = Path(folder, "requirements.txt").read_text().splitlines()
    names = {pin.partition("==")[0] for pin in pins}
    assert names == {"mlflow", "torch", "numpy", "pandas", "pyarrow", "scipy"}
    assert not any("+" in pin for pin in pins)
    assert all(column.type.name == "double" for column in info.signature.inputs)
    example = json.loads(Path(folder, "input_example.json").read_text())
    assert example["columns"] == info.signature.inputs.input_names()
    assert 1 <= len(example["data"]) <= 3


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, 5.0, 11.0]),
        np.array([1, 5, 11]),
        np.array([1, 5, 11], dtype=np.int8),
        np.array([1, 5, 11], dtype=np.float32),
        np.array([1, 5, 11], dtype=object),
        pd.array([1, 5, 11], dtype="Int64"),
    ],
)
def test_pyfunc_accepts_numbers_of_any_dtype(finished_runs: FinishedRuns, column: object) -> None:
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['strong']}/model")
    found = model.predict(pd.DataFrame({"x": column}))
    assert found.shape == (3,)
    assert found.tolist() == [row[0] for row in finished_runs.answers["strong"]]


def test_pyfunc_takes_columns_in_any_order(finished_runs: FinishedRuns) -> None:
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['own']}/model")
    names = model.metadata.get_input_schema().input_names()
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 10)), columns=names)
    found = model.predict(frame)
    assert np.array_equal(model.predict(frame[names[::-1]]), found)
    with torch.no_grad():
        one = load_model(finished_runs.ids["own"])(
            torch.tensor(frame[:1].to_numpy(), dtype=torch.float32)
        )
    assert model.predict(frame[:1]).tolist() == one[:, 0].tolist()
    assert model.predict(frame[:0]).shape == (0,)


def test_pyfunc_refuses_missing_columns_and_text(finished_runs: FinishedRuns) -> None:
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['own']}/model")
    names = model.metadata.get_input_schema().input_names()
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 10)), columns=names)
    with pytest.raises(MlflowException, match=rf"missing inputs \['{names[3]}'\]"):
        model.predict(frame.drop(columns=names[3]))
    with pytest.raises(MlflowException, match="convert"):
        model.predict(frame.assign(**{names[0]: "red"}))  # pandas 2 lets mlflow convert "1.5"


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, 5.0 + 2.0j]),
        np.array([1.0, 5.0 + 0.0j], dtype=np.complex64),
        np.array([1.0, 5.0 + 2.0j], dtype=object),
    ],
)
@pytest.mark.filterwarnings("error")
def test_pyfunc_refuses_complex_columns(finished_runs: FinishedRuns, column: object) -> None:
    """The imaginary part is never dropped without a word."""
    model = mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['strong']}/model")
    for data in (pd.DataFrame({"x": column}), {"x": column}):
        with pytest.raises(DataError) as caught:
            model.predict(data)
        text = str(caught.value)
        assert text.startswith("table: column 'x', data row ") and "is not a number" in text
        assert "\n" not in text


def test_models_of_others_keep_mlflows_type_checks(
    finished_runs: FinishedRuns, tmp_path: object
) -> None:
    """Integers are converted for models of runback only."""
    mlflow.pyfunc.load_model(f"runs:/{finished_runs.ids['strong']}/model")

    class Other:
        def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
            return model_input

    signature = mlflow.models.infer_signature(pd.DataFrame({"x": [0.5]}))
    meta = mlflow.models.Model(signature=signature)
    meta.add_flavor("python_function", loader_module="other", python_version="3.11")
    model = mlflow.pyfunc.PyFuncModel(meta, Other())
    with pytest.raises(MlflowException, match="Can not safely convert int64 to float64"):
        model.predict(pd.DataFrame({"x": [1, 5, 11]}))


def test_mlflow_itself_refuses_whole_numbers_read_as_int64() -> None:
    """What users lose without `runback.model.raw_columns`: most CSV files of whole numbers."""
    schema = mlflow.types.Schema([mlflow.types.ColSpec("double", "x")])
    for kind in (np.int8, np.int32):
        _enforce_schema(pd.DataFrame({"x": np.array([1, 5, 11], dtype=kind)}), schema)
    for frame in (pd.DataFrame({"x": [1, 5, 11]}), pd.read_csv(io.StringIO("x\n1\n5\n11\n"))):
        with pytest.raises(MlflowException, match="Can not safely convert int64 to float64"):
            _enforce_schema(frame, schema)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_evaluate_agrees_with_evaluate(finished_runs: FinishedRuns) -> None:
    frame = pd.read_csv(finished_runs.workspace.folder / "diabetes.csv")
    found = mlflow.models.evaluate(
        f"runs:/{finished_runs.ids['own']}/model", frame, targets=frame.columns[-1],
        model_type="regressor", evaluator_config={"log_explainer": False},
    )  # fmt: skip
    assert found.metrics["example_count"] == len(frame)
    table = finished_runs.workspace.folder / "diabetes.csv"
    own = evaluate(finished_runs.ids["own"], str(table)).scores
    assert found.metrics["root_mean_squared_error"] == pytest.approx(own["rmse"], rel=1e-6)


def test_a_resume_registers_a_second_version(workspace: Workspace) -> None:
    run_id = make_runs(
        workspace, {"run": {"data": "table.csv", "model": "polynomial", "epochs": 3}}
    ).ids["run"]
    (first,) = workspace.client.search_model_versions(f"run_id = '{run_id}'")
    payload = {
        "register": "table", "model_type": "regressor", "epoch": 3, "description": "",
        "metrics": [], "tags": {}, "sha256": first.tags["runback.model_sha256"],
    }  # fmt: skip
    folder = workspace.home(run_id) / "model"
    assert registry.publish(workspace.client, run_id, folder, payload) == "table/1"  # nothing new
    assert len(workspace.client.search_logged_models(["0"])) == 1
    done = workspace.runback("resume", run_id, "--epochs", "30")
    assert done.returncode == 0, done.stderr
    x = torch.tensor([[1.0], [5.0]])
    with torch.no_grad():
        by_run = load_model(run_id)(x)[:, 0].tolist()
        second = load_model("models:/table/2")(x)[:, 0].tolist()
        old = load_model("models:/table/1")(x)[:, 0].tolist()
    assert by_run == second != old
    assert len(list(folder.iterdir())) == 2  # none overwrites another that waits for delivery
    assert registry.publish(workspace.client, run_id, folder, payload) == "table/1"
    frame = pd.DataFrame({"x": [1, 5]})
    for uri, expected in ((f"runs:/{run_id}/model", by_run), ("models:/table/1", old)):
        assert mlflow.pyfunc.load_model(uri).predict(frame).tolist() == expected
    assert (evaluate(run_id).epoch, evaluate("models:/table/1").epoch) == (30, 3)
