"""Targets of more than one dimension: images to reproduce, and a class for each pixel."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.types.schema import TensorSpec
from sklearn.metrics import accuracy_score, r2_score
from torch.utils.data import TensorDataset

from conftest import PROGRAMS, Workspace
from in_process import require_exact_resumes
from runback import compare, evaluate, export, load_model, predict, reproduce, resume, train
from runback.cli import main
from runback.config import TrainConfig
from runback.data.table import read_table
from runback.errors import ConfigError, DataError, ModelError, UsageError
from runback.model.spec import ModelSpec, load_built, save_model
from runback.tasks import by_name
from runback.training.setup import TrainingSetup, prepare

COPIES, MASKS, NET = (f"{PROGRAMS}/images.py:{name}" for name in ("Copies", "Masks", "PixelNet"))
TWO = '{"outputs": 2}'


def config_of(**options: object) -> TrainConfig:
    usual = {
        "data": COPIES, "model": NET, "model_args": TWO, "epochs": 3, "batch_size": 8, "lr": 0.01,
        "split": "8:2:0", "optimizer": "adam", "drop_last": "false", "checkpoint_every": 2,
        "checkpoint_minutes": 0,
    }  # fmt: skip
    return TrainConfig.from_mapping({**usual, **options})


def masks_of(**options: object) -> TrainConfig:
    return config_of(**{"data": MASKS, "model_args": "{}", **options})


def all_samples(data: str) -> tuple[torch.Tensor, torch.Tensor]:
    table = read_table(data, (), (), torch.float32)
    return table.features, table.targets


def test_images_to_reproduce_train_register_and_predict(workspace: Workspace) -> None:
    run_id = train(
        data=COPIES, model=NET, model_args=json.loads(TWO), optimizer="adamw", lr=0.03, epochs=4,
        batch_size=8,
    ).run_id  # fmt: skip
    x, y = all_samples(COPIES)
    with torch.no_grad():
        expected = load_model(run_id)(x).numpy()
    assert expected.shape == (30, 2, 4, 4)
    found = predict(run_id, x)
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    assert list(served.metadata.signature.outputs) == [
        TensorSpec(np.dtype("float32"), (-1, 2, 4, 4))
    ]
    assert np.array_equal(served.predict(x.numpy()), expected)
    whole = evaluate(run_id, COPIES)
    assert whole.scores["r2"] == pytest.approx(r2_score(y.flatten(), expected.flatten()), abs=1e-5)
    scores = evaluate(run_id).scores
    logged = workspace.client.get_run(run_id).data.metrics
    assert {f"test_{name}" for name in scores} <= logged.keys()
    assert scores.keys() == {"cost", "rmse", "mae", "r2"}
    baselines = workspace.client.download_artifacts(run_id, "baselines.json")
    assert json.loads(Path(baselines).read_text()).keys() == {"constant"}
    plots = {file.path for file in workspace.client.list_artifacts(run_id, "plots")}
    assert {"plots/predictions.png", "plots/residuals.png"} <= plots
    assert reproduce(run_id).equal
    assert resume(run_id, epochs=5).delivered


def test_a_class_for_each_pixel_trains_and_predicts(workspace: Workspace) -> None:
    args = {"data": MASKS, "model": NET, "optimizer": "adamw", "lr": 0.03, "batch_size": 8}
    run_id = train(**args, epochs=6, class_weights="balanced").run_id
    params = workspace.client.get_run(run_id).data.params
    assert params["loss"] == "cross_entropy"
    x, y = all_samples(MASKS)
    with torch.no_grad():
        expected = np.array([0, 2, 5])[load_model(run_id)(x).argmax(1)]
    assert np.array_equal(predict(run_id, x), expected)
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    assert list(served.metadata.signature.outputs) == [TensorSpec(np.dtype("int64"), (-1, 4, 4))]
    assert np.array_equal(served.predict(x.numpy()), expected)
    scores = evaluate(run_id, MASKS).scores
    assert scores["accuracy"] == pytest.approx(
        accuracy_score(y.flatten(), expected.flatten()), 1e-2
    )
    with pytest.raises(UsageError, match=r"predicts arrays of the shape \[4, 4\]"):
        predict(run_id, x, probabilities=True)
    other = train(**args, epochs=1).run_id
    ranking = compare(run_id, other).ranking
    assert ranking is not None and {m.run_id for m in ranking.models} == {run_id, other}


def test_predictions_of_arrays_become_columns_in_files(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = train(data=COPIES, model="linear", epochs=1, batch_size=8, target=["copy"]).run_id
    capsys.readouterr()
    assert main(["predict", run_id, "--data", COPIES, "--output", "copies.parquet"]) == 0
    frame = pd.read_parquet("copies.parquet")
    assert frame.shape == (30, 32)
    assert list(frame)[:5] == [f"copy_0_0_{i}" for i in range(4)] + ["copy_0_1_0"]
    expected = predict(run_id, all_samples(COPIES)[0])
    assert np.array_equal(frame.to_numpy().reshape(30, 2, 4, 4), expected)
    export(run_id, "pt2", "net.pt2")
    assert main(["evaluate", run_id, "--data", f"{PROGRAMS}/images.py:Heights"]) == 2
    assert "has the columns mean, first" in capsys.readouterr().err


def test_vectors_predict_arrays_from_a_frame(workspace: Workspace) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x[:, :2, None] * x[:, None, :])
    run_id = train(data, model="mlp", epochs=2, batch_size=8).run_id
    frame = pd.DataFrame(x.numpy(), columns=["x0", "x1", "x2"])
    found = predict(run_id, frame, keep=["x1"])
    assert list(found) == ["x1", "y_0_0", "y_0_1", "y_0_2", "y_1_0", "y_1_1", "y_1_2"]
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model").predict(frame.astype("float64"))
    assert served.shape == (40, 2, 3)
    assert np.array_equal(served.reshape(40, 6), found.iloc[:, 1:].to_numpy())


@pytest.mark.parametrize("config", [config_of(), masks_of(), masks_of(class_weights="balanced")])
def test_a_killed_run_of_arrays_resumes_bit_identical(tmp_path: Path, config: TrainConfig) -> None:
    require_exact_resumes(tmp_path, config, [(0, 2), (1, 0), (2, 1)], (True, False))


def rebuilt(setup: TrainingSetup, folder: Path) -> torch.nn.Module:
    save_model(folder, setup.built, setup.state.model.state_dict(), setup.example)
    return load_built(folder).module


@pytest.mark.parametrize("model", ["linear", "mlp", NET])
@pytest.mark.parametrize("data", [COPIES, MASKS])
def test_modules_of_arrays_reload_bit_identical(tmp_path: Path, model: str, data: str) -> None:
    args = TWO if (model, data) == (NET, COPIES) else "{}"
    setup = prepare(config_of(data=data, model=model, model_args=args, normalize="standard"))
    x, module = setup.table.features, setup.state.model.eval()
    with torch.no_grad():
        assert torch.equal(rebuilt(setup, tmp_path / "model")(x), module(x))
    expected = (30, 3, 4, 4) if data == MASKS else (30, 2, 4, 4)
    assert module(x).shape == expected


def test_arrays_have_one_scale_for_all_numbers() -> None:
    setup = prepare(config_of(normalize_target="standard"))
    y = setup.table.targets[setup.split.train].double()
    target = setup.state.model.target
    assert target.offset.tolist() == [pytest.approx(y.mean().item())]
    assert target.scale.tolist() == [pytest.approx(y.std(correction=0).item())]


def test_yes_no_pixels_train_with_bce() -> None:
    x = torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    config = config_of(loss="bce", model_args="{}", model="mlp", class_weights="balanced")
    setup = prepare(config, samples=TensorDataset(x, (x > 0).long()))
    output = setup.state.model(x).detach()
    assert output.shape == (30, 1, 4, 4)
    y = setup.table.targets
    scores = setup.scoring.scores(output, y)
    assert scores["accuracy"] == accuracy_score(y.flatten(), output.flatten() > 0)
    rows = slice(None)
    ((name, constant),) = setup.task.baselines(x, y, rows, x[:5], setup.built.spec.target_columns)
    assert name == "constant" and constant.shape == (5, 1, 4, 4)
    assert constant.sigmoid().flatten()[0].item() == pytest.approx(y.mean().item())


@pytest.mark.parametrize(
    ("task", "shape"), [("regression", (6, 2, 3)), ("classification", (6, 4, 2, 3))]
)
def test_resampled_arrays_agree_with_the_scores(task: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(shape, generator=generator)
    y = torch.randn(6, 2, 3, generator=generator)
    found = by_name(task)
    y = y.abs().long().clamp(max=3) if found.has_classes else y
    (loss, *_) = found.losses.values()
    scores = found.scores(output, y, loss, ())
    for name in ("cost",) if found.has_classes else found.metrics:
        resampled = found.resampled(name, output, y, loss)
        assert resampled is not None
        assert resampled.scores(np.ones((1, 6)))[0] == pytest.approx(scores[name], rel=1e-5)
    if found.has_classes:
        assert found.resampled("accuracy", output, y, loss) is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model_args": '{"outputs": 3}'}, r"returns \(2, 3, 4, 4\), not \(2, 2, 4, 4\)"),
        ({"data": MASKS, "model_args": TWO}, r"returns \(2, 2, 4, 4\), not \(2, 3, 4, 4\)"),
        ({"data": MASKS, "split": "stratified"}, "needs one class for each sample"),
        ({"data": COPIES, "split": "stratified", "loss": "mse"}, "needs classes"),
        ({"data": COPIES, "loss": "cross_entropy"}, "is not a class index"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_arrays_are_refused(
    options: dict[str, object], problem: str
) -> None:
    with pytest.raises((ConfigError, DataError, ModelError), match=problem):
        prepare(config_of(**options))


def test_an_unknown_class_of_a_pixel_names_its_sample(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\nclass D(Dataset):\n"
        "    def __len__(self): return 30\n"
        "    def __getitem__(self, i):\n"
        "        return torch.zeros(1, 2, 2), torch.tensor([[0, 1], [0, 5 * (i == 7)]])\n"
    )
    config = masks_of(data=f"{tmp_path}/own.py:D", split="1:1:0", seed=1, model="mlp")
    with pytest.raises(DataError, match="sample 7: the class 5 is in no training sample"):
        prepare(config)


@pytest.mark.parametrize("shape", [[4], [0, 2], "x", [2.5, 2], [1, True]])
def test_a_damaged_target_shape_is_refused(shape: object) -> None:
    stored = json.loads(json.dumps(prepare(config_of()).built.spec.as_json()))
    assert ModelSpec.from_json(stored).target_shape == (2, 4, 4)
    assert ModelSpec.from_json({**stored, "target_shape": []}).target_shape == ()
    with pytest.raises(ModelError, match="the entry 'target_shape' is"):
        ModelSpec.from_json({**stored, "target_shape": shape})
