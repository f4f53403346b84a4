"""The model that is registered is the module that was trained, or the run has failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import DATA, PROGRAMS, Workspace
from runback import TrainConfig
from runback.errors import RebuildError
from runback.model.hidden_state import fingerprints
from runback.model.rebuild import Rebuilder, advice, differing_rows
from runback.model.spec import save_model
from runback.training.setup import TrainingSetup, prepare

HIDDEN = PROGRAMS / "hidden.py"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has the file that `ReadsFile` reads."""
    (tmp_path / "value.txt").write_text("0.5")
    monkeypatch.chdir(tmp_path)


def setup_of(model: str, **options: Any) -> TrainingSetup:
    model = f"{HIDDEN}:{model}" if model[0].isupper() else model
    return prepare(TrainConfig(data=str(DATA / "non_linear.csv"), model=model, **options))


def check(setup: TrainingSetup, folder: Path) -> None:
    """Saves the module as a training does at its end, and rebuilds it."""
    save_model(folder, setup.built, setup.state.model.state_dict())
    with Rebuilder(setup.built) as rebuilder:
        rebuilder.require_equal(folder, setup.table.features[:9])


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("RandomTensor", "W differs and is not in the state_dict"),
        ("NonPersistent", "W differs and is not in the state_dict"),
        ("PythonRandom", "parts['k'][0] differs and is not in the state_dict"),
        ("NumpyRandom", "k differs and is not in the state_dict"),
        ("SetOrder", "differs and is not in the state_dict"),
        ("Counter", "calls differs and is not in the state_dict"),
    ],
)
def test_a_module_that_does_not_come_back_is_named(
    tmp_path: Path, model: str, problem: str
) -> None:
    setup = setup_of(model)
    setup.state.model(setup.table.features[:2])  # as a training does
    with pytest.raises(RebuildError) as caught:
        check(setup, tmp_path / "model")
    text = str(caught.value)
    assert text.startswith("the model rebuilt from its files does not predict what the trained")
    assert problem in text and "so nothing was registered" in text and "\n" not in text
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("ReadsFile", "[Errno 2] No such file or directory: 'value.txt'"),
        ("Exits", "Exits refuses {}: SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_built_elsewhere_is_named(
    tmp_path: Path, model: str, problem: str
) -> None:
    with pytest.raises(RebuildError) as caught:
        check(setup_of(model), tmp_path / "model")
    assert str(caught.value).startswith("the model cannot be rebuilt from its files: ")
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["Prints", "Seeded", "Cached", "RandomInEval", "Tied"])
def test_a_module_with_equal_predictions_passes(tmp_path: Path, model: str) -> None:
    check(setup_of(model, normalize="standard"), tmp_path / "model")


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
@pytest.mark.parametrize("model", ["linear", "polynomial", "mlp"])
def test_built_in_models_need_no_process(tmp_path: Path, model: str, precision: str) -> None:
    setup = setup_of(model, precision=precision, normalize="minmax")
    assert Rebuilder(setup.built)._process is None
    check(setup, tmp_path / "model")


def test_other_weights_than_the_modules_are_refused(tmp_path: Path) -> None:
    setup = setup_of("mlp")
    weights = {name: value.clone() for name, value in setup.state.model.state_dict().items()}
    weights["module.module.output.bias"] += 1e-3
    save_model(tmp_path / "model", setup.built, weights)
    with pytest.raises(RebuildError, match="checked row 1: "), Rebuilder(setup.built) as rebuilder:
        rebuilder.require_equal(tmp_path / "model", setup.table.features[:9])


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    setup = setup_of("Seeded")
    save_model(tmp_path / "model", setup.built, setup.state.model.state_dict())
    with Rebuilder(setup.built) as rebuilder:
        assert rebuilder._process is not None
        os.kill(rebuilder._process.pid, signal.SIGKILL)
        rebuilder._process.wait()
        rebuilder.require_equal(tmp_path / "model", setup.table.features[:9])


def test_the_process_ends_with_its_block() -> None:
    with Rebuilder(setup_of("Seeded").built) as rebuilder:
        process = rebuilder._process
        assert process is not None and process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_the_process_ends_when_its_input_is_closed() -> None:
    """As it is when the training process is killed."""
    with Rebuilder(setup_of("Seeded").built) as rebuilder:
        process = rebuilder._process
        assert process is not None and process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_differing_rows_compares_bits() -> None:
    one = torch.tensor([[0.0], [1.0], [float("nan")], [2.0]])
    assert differing_rows(one, one.clone()) == []
    assert differing_rows(one, torch.tensor([[-0.0], [1.0], [float("nan")], [2.0]])) == [0]
    next_up = torch.nextafter(one, torch.tensor(9.0))
    assert differing_rows(one, next_up) == [0, 1, 3]
    assert differing_rows(one, one.double()) == [0]


def test_a_difference_without_a_visible_cause_is_explained() -> None:
    same = fingerprints(nn.Linear(1, 1))
    assert "an argument in model_args" in advice(same, same)


def test_a_module_that_is_not_rebuilt_is_not_registered(workspace: Workspace) -> None:
    """The run has failed; its scores, plots and checkpoints stay."""
    (workspace.folder / "hidden.py").write_text(HIDDEN.read_text())
    done = workspace.runback(
        "train", "--data", str(DATA / "non_linear.csv"), "--model", "hidden.py:RandomTensor",
        "--epochs", "6", "--lr", "1e-7", "--checkpoint-every", "3",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert "warning: option model: built again with the same weights" in done.stderr
    assert "W differs and is not in the state_dict: register it as a buffer" in done.stderr
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED" and "W differs" in run.data.tags["runback.error"]
    assert {"cost", "val_cost", "test_cost", "test_rmse"} <= run.data.metrics.keys()
    assert workspace.client.search_logged_models(["0"]) == []
    assert workspace.client.search_model_versions("") == []
    files = {f.path for f in workspace.client.list_artifacts(run.info.run_id, "plots")}
    assert {"plots/cost.png", "plots/predictions.png"} <= files
    assert len(workspace.client.list_artifacts(run.info.run_id, "checkpoints")) == 4


def test_a_buffer_that_grows_later_ends_the_run(workspace: Workspace) -> None:
    (workspace.folder / "hidden.py").write_text(HIDDEN.read_text())
    done = workspace.runback(
        "train", "--data", str(DATA / "non_linear.csv"), "--model", "hidden.py:GrowsLater",
        "--epochs", "30", "--lr", "1e-7",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "forward changes 'seen' from torch.float32 [1] to torch.float32 [2]" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED"
