"""Datasets of samples with a shape: images trained, reloaded and served as they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.types.schema import TensorSpec
from torch.utils.data import Dataset, Subset, TensorDataset

from clean_env import CleanEnvironment
from conftest import PROGRAMS, ROOT, Workspace
from in_process import history, require_exact_resumes
from model_server import ask, serving
from runback import evaluate, export, load_model, predict, reproduce, resume, train
from runback.cli import main
from runback.commands.evaluate import with_data_args
from runback.config import TrainConfig
from runback.data.prepare import prepare_table
from runback.data.table import read_table
from runback.errors import DataError, ModelError, UsageError
from runback.model.batched_forward import chunk_rows
from runback.model.samples import samples_to_tensor
from runback.model.spec import ModelSpec, load_built, save_model
from runback.training.setup import TrainingSetup, prepare
from runback.user_code import import_class, locate

DIGITS = ROOT / "examples" / "digits.py"
IMAGES = f"{PROGRAMS}/images.py:Images"
STREAM = f"{PROGRAMS}/images.py:Stream"
HEIGHTS = f"{PROGRAMS}/images.py:Heights"
NET = f"{PROGRAMS}/images.py:Net"


def config_of(**options: object) -> TrainConfig:
    usual = {
        "data": IMAGES, "model": NET, "epochs": 3, "batch_size": 8, "split": "8:2:0", "lr": 0.01,
        "optimizer": "adam", "drop_last": "false", "checkpoint_every": 2, "checkpoint_minutes": 0,
    }  # fmt: skip
    return TrainConfig.from_mapping({**usual, **options})


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> tuple[Workspace, str]:
    """A finished run of the example, and its workspace."""
    folder = tmp_path_factory.mktemp("digits")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "RUNBACK_HOME": str(folder / ".runback")}
    workspace = Workspace(folder, uri, env)
    run_id = workspace.train(
        "--data", f"{DIGITS}:Digits", "--model", f"{DIGITS}:Net", "--loss", "cross_entropy",
        "--split", "stratified", "--optimizer", "adamw", "--lr", "0.003", "--epochs", "12",
        "--batch-size", "32",
    )  # fmt: skip
    return workspace, run_id


@pytest.fixture
def digits(
    trained: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Workspace, str]:
    """The same for a test that uses its store."""
    for name in ("MLFLOW_TRACKING_URI", "RUNBACK_HOME"):
        monkeypatch.setenv(name, trained[0].env[name])
    monkeypatch.chdir(tmp_path)
    return trained


def images_of(n: int) -> torch.Tensor:
    return read_table(f"{DIGITS}:Digits", (), (), torch.float32).features[:n]


def test_images_are_learned_from_their_shape(digits: tuple[Workspace, str]) -> None:
    result = evaluate(digits[1])
    assert result.rows == 181
    assert result.scores["accuracy"] > 0.97
    logged = digits[0].client.get_run(digits[1]).data.metrics
    assert logged["test_accuracy"] == result.scores["accuracy"]
    for logged_input in digits[0].client.get_run(digits[1]).inputs.dataset_inputs:
        features = json.loads(logged_input.dataset.schema)["mlflow_tensorspec"]["features"]
        (spec,) = json.loads(features)
        assert spec["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}


def test_every_load_path_predicts_the_same_classes(digits: tuple[Workspace, str]) -> None:
    run_id, x = digits[1], images_of(300)
    with torch.no_grad():
        expected = load_model(run_id)(x).argmax(1)
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    (spec,) = served.metadata.signature.inputs
    assert spec == TensorSpec(np.dtype("float32"), (-1, 1, 8, 8))
    assert served.input_example.shape == (3, 1, 8, 8)
    assert served.predict(x.numpy()).tolist() == expected.tolist()
    shares = served.predict(x.numpy(), params={"probabilities": True})
    frame = predict(run_id, x, probabilities=True)
    pd.testing.assert_frame_equal(shares, frame)
    assert frame["digit"].tolist() == expected.tolist()


def test_images_are_served_without_runback(
    digits: tuple[Workspace, str], clean_env: CleanEnvironment, tmp_path: Path
) -> None:
    workspace, run_id = digits
    x = images_of(20)
    expected = predict(run_id, x.numpy(), probabilities=True)
    with serving(f"runs:/{run_id}/model", tmp_path, workspace.env, clean_env) as address:
        status, found = ask(address, json.dumps({"inputs": x.tolist()}))
        assert (status, found) == (200, expected["digit"].tolist())
        asked = {"inputs": x.tolist(), "params": {"probabilities": True}}
        status, rows = ask(address, json.dumps(asked))
        assert (
            status == 200 and pd.DataFrame(rows).to_numpy().tolist() == expected.to_numpy().tolist()
        )
        status, text = ask(address, json.dumps({"inputs": x[:, 0].tolist()}))
        assert status == 400 and "expected shape" in text


def test_a_dataset_is_predicted_as_a_table(
    digits: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = digits[1]
    assert main(["predict", run_id, "--data", f"{DIGITS}:Digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1798 and lines[0] == "digit"
    assert lines[1:301] == [str(digit) for digit in predict(run_id, images_of(300))["digit"]]


def test_a_run_of_images_resumes_and_reproduces(digits: tuple[Workspace, str]) -> None:
    run_id = digits[1]
    assert reproduce(run_id).equal
    assert resume(run_id, epochs=13).delivered
    assert evaluate(run_id).scores["accuracy"] > 0.97


def test_images_export_with_any_number_of_rows(
    digits: tuple[Workspace, str], tmp_path: Path
) -> None:
    export(digits[1], "pt2", str(tmp_path / "net.pt2"))
    program = torch.export.load(tmp_path / "net.pt2").module()
    assert program(images_of(5)).shape == (5, 10)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["predict", "--data", "t.csv"], "takes samples of the shape [1, 8, 8], not a table"),
        (["evaluate", "--data", "t.csv"], "takes samples of the shape [1, 8, 8]"),
        (["evaluate", "--data", IMAGES], "the shape of the samples is [2, 4, 4]"),
        (["predict", "--data", IMAGES], "the shape is [30, 2, 4, 4], and the model takes [n, 1, 8, 8]"),
        (["predict", "--data", f"{DIGITS}:Digits", "--keep", "x"], "no columns to keep"),
        (["predict", "--data", f"{DIGITS}:Nothing"], "has no torch.utils.data"),
    ],
)  # fmt: skip
def test_other_data_than_the_images_are_refused(
    digits: tuple[Workspace, str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    Path("t.csv").write_text("x,digit\n1,2\n")
    assert main([arguments[0], digits[1], *arguments[1:]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and problem in err


@pytest.mark.parametrize("data", [IMAGES, STREAM])
def test_a_killed_run_of_images_resumes_bit_identical(tmp_path: Path, data: str) -> None:
    """At each batch; the samples are noisy, so the state of the generators counts."""
    config = config_of(data=data, shuffle=str(data == IMAGES).lower())
    stops = [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2)]
    require_exact_resumes(tmp_path, config, stops, (True, False))
    assert len(history(tmp_path / "whole")) > 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_have_the_shape_and_the_codes(num_workers: int) -> None:
    setup = prepare(config_of(num_workers=num_workers, shuffle="false"))
    x, y = next(setup.batches.epoch(1))
    assert x.shape == (8, 2, 4, 4) and x.dtype == torch.float32
    assert y.shape == (8, 1) and y.dtype == torch.int64
    assert torch.equal(y[:, 0], setup.split.train[:8] % 3)
    assert setup.config.loss == "cross_entropy"
    assert setup.built.spec.labels[0].classes == (0, 2, 7)
    assert sum(setup.built.spec.labels[0].counts) == 24


def rebuilt(setup: TrainingSetup, folder: Path) -> torch.nn.Module:
    save_model(folder, setup.built, setup.state.model.state_dict(), setup.example)
    return load_built(folder).module


@pytest.mark.parametrize("model", ["linear", "mlp", NET])
@pytest.mark.parametrize("normalize", ["none", "standard", "minmax"])
def test_modules_of_images_reload_bit_identical(tmp_path: Path, model: str, normalize: str) -> None:
    setup = prepare(config_of(model=model, normalize=normalize, precision="float64"))
    x, module = setup.table.features, setup.state.model.eval()
    assert x.dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(rebuilt(setup, tmp_path / "model")(x), module(x))


def test_each_channel_of_images_is_scaled_by_itself() -> None:
    setup = prepare(config_of(normalize="standard"))
    train = setup.table.features[setup.split.train].double()
    scale = setup.state.model.scale
    assert scale.offset.tolist() == pytest.approx(train.mean(dim=(0, 2, 3)).tolist())
    expected = train.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    assert scale.scale.tolist() == pytest.approx(expected.tolist())
    seen: list[torch.Tensor] = []
    setup.state.model.module.convolution.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    setup.state.model.eval()(train.float())
    assert seen[0].mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_images_with_numbers_are_a_regression() -> None:
    setup = prepare(config_of(data=HEIGHTS))
    assert setup.config.loss == "mse"
    assert setup.table.columns.targets == ("mean", "first")
    x, y = next(setup.batches.epoch(1))
    assert x.shape == (8, 2, 4, 4) and y.shape == (8, 2) and y.dtype == torch.float32


def test_the_arguments_of_a_dataset_are_used_again(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {"n": 60, "classes": [1, 4]}
    run_id = train(data=IMAGES, data_args=args, model=NET, epochs=2, batch_size=16).run_id
    assert json.loads(workspace.client.get_run(run_id).data.params["data_args"]) == args
    assert evaluate(run_id).rows == 6
    assert resume(run_id, epochs=3).delivered
    assert reproduce(run_id).equal
    assert evaluate(run_id, IMAGES).rows == 60
    assert evaluate(run_id, IMAGES, data_args={"n": 9, "classes": [4]}).rows == 9
    capsys.readouterr()
    assert main(["predict", run_id, "--data", IMAGES, "--data-args", '{"n": 7}']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_a_dataset_object_trains_and_is_given_again(workspace: Workspace) -> None:
    images = import_class(locate(IMAGES), Dataset).cls(n=40)
    run_id = train(images, model=NET, epochs=2, batch_size=8, lr=0.01).run_id
    assert workspace.client.get_run(run_id).data.params["data"] == "object of Images"
    own = evaluate(run_id, images)
    assert (own.rows, own.data) == (4, "object of Images")
    other = import_class(locate(IMAGES), Dataset).cls(n=30)
    assert evaluate(run_id, other).rows == 30
    assert len(predict(run_id, images)) == 40
    assert evaluate(run_id, Subset(images, range(9))).rows == 9
    assert resume(run_id, data=images, epochs=3).delivered
    with pytest.raises(DataError, match="not the data of the run"):
        resume(run_id, data=other, epochs=4)
    for command in (evaluate, resume, reproduce):
        with pytest.raises(DataError, match=r"object of Images.* give the dataset in Python"):
            command(run_id)
    versions = workspace.client.search_model_versions("name = 'Images'")
    assert {version.run_id for version in versions} == {run_id}


def test_a_dataset_without_names_takes_those_of_the_options() -> None:
    setup = prepare(config_of(target="species"))
    assert setup.built.spec.targets == ("species",)
    with pytest.raises(DataError, match=r"option target: .* has the columns mean, first"):
        prepare(config_of(data=HEIGHTS, target="a,b"))


def test_a_dataset_object_takes_no_arguments() -> None:
    x = torch.zeros(30, 2)
    with pytest.raises(UsageError, match="no effect on a dataset object"):
        train(TensorDataset(x, x), data_args={"a": 1})


def test_a_stratified_split_has_all_classes_alike() -> None:
    prepared = prepare_table(config_of(split="stratified:6:2:2"), torch.float32, None)
    parts = (prepared.split.train, prepared.split.validation, prepared.split.test)
    counts = [prepared.table.targets[part].unique(return_counts=True)[1].tolist() for part in parts]
    assert counts == [[6, 6, 6], [2, 2, 2], [2, 2, 2]]


HEAD = "import torch\nfrom torch.utils.data import Dataset\n"
LENGTH = "\n    def __len__(self): return 30\n"
GET = "    def __getitem__(self, i): return "
IMAGE = "torch.zeros(1, 4, 4)"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("torch.zeros(1, 4 + i // 7), 1.0", "sample 7: x has the shape [1, 5], and others have [1, 4]"),
        (f"{IMAGE}, [1.0] * (1 + i // 3)", "sample 3: y has the shape [2], and others have [1]"),
        (f"{IMAGE} / (i - 9), 1.0", "sample 9 has a value that is not finite"),
        (f"{IMAGE}.to(torch.complex64), 1.0", "sample 0: x is a Tensor of torch.complex64"),
        ("['a', 'b'], 1.0", "sample 0: x is a list; it must be a number"),
        (f"{IMAGE}, None", "sample 0: y is a NoneType; it must be a number"),
        ("torch.zeros(0, 4), 1.0", "sample 0: x is empty"),
        (f"{IMAGE}", "sample 0: not enough values to unpack"),
        (f"{IMAGE}, i - 3", "sample 0: -3 is not a class index, a whole number from 0"),
        (f"{IMAGE}, i % 2 + 5 * (i == 7)", "7: the class 6 is in no training sample; those have 0, 1"),
        (f"{IMAGE}, 5", "target 'y0' has one class in the training rows, 5"),
    ],
)  # fmt: skip
def test_unusable_samples_are_refused_with_their_index(
    tmp_path: Path, body: str, problem: str
) -> None:
    (tmp_path / "own.py").write_text(HEAD + "class D(Dataset):" + LENGTH + GET + body + "\n")
    with pytest.raises(DataError) as refused:
        prepare(config_of(data=f"{tmp_path}/own.py:D", model="mlp", split="1:1:0", seed=1))
    assert problem in str(refused.value)


def test_a_stream_is_read_in_its_own_order() -> None:
    setup = prepare(config_of(data=STREAM, shuffle="false", batch_size=5))
    x, y = (torch.cat(parts) for parts in zip(*setup.batches.epoch(1), strict=True))
    images = import_class(locate(IMAGES), Dataset).cls()
    own = [7 * index % 30 for index in setup.split.train.tolist()]
    expected = (
        images.images[own] + torch.tensor([images.classes[i] for i in own])[:, None, None, None] / 4
    )
    assert torch.allclose(x, expected, atol=0.1)
    assert torch.equal(y[:, 0], torch.tensor(own) % 3)
    assert [len(part) for part, _ in setup.batches.epoch(1, start=2)] == [5, 5, 4]
    assert [len(part) for part, _ in setup.batches.epoch(1, group=2)] == [10, 10, 4]


def test_a_stream_with_other_options_is_refused() -> None:
    with pytest.raises(UsageError, match="option shuffle: an IterableDataset"):
        prepare(config_of(data=STREAM))
    with pytest.raises(UsageError, match="option num_workers"):
        prepare(config_of(data=STREAM, shuffle="false", num_workers=1))
    with pytest.raises(DataError, match="the dataset is empty"):
        prepare(config_of(data=STREAM, shuffle="false", data_args={"n": 0}))


def test_a_stream_that_ends_early_is_refused() -> None:
    setup = prepare(config_of(data=STREAM, shuffle="false"))
    setup.table.dataset.samples.end = 20
    with pytest.raises(DataError, match="ends before its 30 samples"):
        list(setup.batches.epoch(1))


def test_a_sample_that_changes_its_shape_is_refused(tmp_path: Path) -> None:
    """It had another shape when all samples were read."""
    body = f"    n = 0\n{GET}torch.zeros(1, 4, 4 + self.read() // 31), i / 2\n"
    body += "    def read(self): self.n += 1; return self.n\n"
    (tmp_path / "own.py").write_text(HEAD + "class D(Dataset):" + LENGTH + body)
    setup = prepare(config_of(data=f"{tmp_path}/own.py:D", model="mlp"))
    with pytest.raises(DataError, match=r"sample \d+: x has the shape \[1, 4, 5\]"):
        next(setup.batches.epoch(1))


@pytest.mark.parametrize(
    ("y", "loss"), [("float(i % 3)", "cross_entropy"), ("[i % 2, 1 - i % 2]", "bce")]
)
def test_classes_have_any_numeric_type(tmp_path: Path, y: str, loss: str) -> None:
    (tmp_path / "own.py").write_text(HEAD + f"class D(Dataset):{LENGTH}{GET}{IMAGE}, {y}\n")
    setup = prepare(config_of(data=f"{tmp_path}/own.py:D", model="mlp", loss=loss, shuffle="false"))
    _, codes = next(setup.batches.epoch(1))
    assert torch.equal(codes, setup.table.targets[setup.split.train[:8]])
    assert len(setup.built.spec.labels[0].classes) == (3 if loss == "cross_entropy" else 2)


@pytest.mark.parametrize("shape", [3, [1], [1, 0], [1, True], ["1", 8], [1, 2**40], [2] * 20])
def test_a_damaged_shape_of_a_model_is_named(shape: object) -> None:
    stored = ModelSpec("regression", "mlp", {}, ("x",), ("y",), "none", "float32").as_json()
    assert ModelSpec.from_json({**stored, "shape": [1, 8, 8]}).shape == (1, 8, 8)
    with pytest.raises(ModelError, match="the entry 'shape' is"):
        ModelSpec.from_json({**stored, "shape": shape})


def test_samples_are_checked_before_a_prediction() -> None:
    x = np.zeros((3, 1, 8, 8))
    assert samples_to_tensor(x, (1, 8, 8), torch.float32).dtype == torch.float32
    for wrong, problem in (
        (x[0], r"shape is \[1, 8, 8\], and the model takes \[n, 1, 8, 8\]"),
        (x + 1j, "complex"),
        (np.full_like(x, np.inf), "sample 0 has a value that is not finite"),
        ("abc", "a str is not an array of numbers"),
    ):
        with pytest.raises(DataError, match=problem):
            samples_to_tensor(wrong, (1, 8, 8), torch.float32)


def test_unusable_arguments_of_a_dataset_are_refused() -> None:
    for options, problem in (
        ({"data_args": {"train": True}}, r'with data_args {"train": true}: .*argument .train.'),
        ({"data_args": {"n": 1}, "data": f"{ROOT}/data/diabetes.csv"}, "no effect on a table"),
    ):
        with pytest.raises(UsageError, match=problem):
            prepare(config_of(**options))
    with pytest.raises(UsageError, match="is for a dataset in data"):
        with_data_args(None, "t.csv", {})


def test_options_of_columns_are_refused_for_images() -> None:
    for options in (
        {"split": "column:x"},
        {"split": "stratified", "data": HEIGHTS},
        {"target": "y,z"},
    ):
        with pytest.raises(UsageError, match=next(iter(options))):
            prepare(config_of(**options))


def test_blocks_of_large_samples_have_fewer_rows() -> None:
    assert chunk_rows(torch.empty(2, 100)) == 65_536
    assert chunk_rows(torch.empty(2, 3, 224, 224)) == 13
    assert chunk_rows(torch.empty(1, 2**11, 2**11)) == 1
