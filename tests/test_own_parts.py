"""A loss, metrics and an optimizer of the user's own, by reference and as objects."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import runback
from conftest import DATA, PROGRAMS, Workspace
from in_process import history, require_exact_resumes
from runback.config import TrainConfig
from runback.errors import ConfigError, ModelError, TrustError
from runback.training.setup import TrainingSetup, prepare
from tracking_parts import record, recorded

OWN = f"{PROGRAMS}/own_parts.py"
SMALL = {"data": f"{DATA}/diabetes.csv", "model": "linear", "epochs": "4", "lr": "0.01"}
FLOWERS = {"data": f"{DATA}/flowers.csv", "model": "mlp", "epochs": "2"}


def prepared(**options: Any) -> TrainingSetup:
    return prepare(TrainConfig.from_mapping({**SMALL, **options}))


def source(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(f"import torch\n{text}\n")
    return f"{folder}/mine.py"


def test_an_own_loss_is_the_cost_of_the_run() -> None:
    setup = prepared(loss=f"{OWN}:capped")
    output, y = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.5], [0.0]])
    assert setup.loss(output, y).item() == 1.25
    assert setup.task.name == "regression"
    assert setup.scoring.scores(output, y)["cost"] == 1.25


def test_an_own_loss_of_classes_gets_logits_and_codes() -> None:
    setup = prepared(**FLOWERS, loss=f"{OWN}:focal", metrics=f"{OWN}:hit_rate")
    assert setup.task.name == "classification"
    y = setup.table.targets[:9]
    output = torch.randn(9, setup.built.spec.n_outputs)
    rate = (output.argmax(1) == y[:, 0]).double().mean().item()
    assert setup.scoring.own_scores(output, y) == {"hit_rate": rate}
    assert setup.scoring.metrics["hit_rate"].higher_is_better
    assert (
        not prepared(metrics=f"{OWN}:largest_error")
        .scoring.metrics["largest_error"]
        .higher_is_better
    )


def test_a_function_of_torch_is_a_loss() -> None:
    setup = prepared(loss="torch.nn.functional:smooth_l1_loss")
    output, y = torch.randn(4, 1), torch.randn(4, 1)
    assert setup.loss(output, y) == functional.smooth_l1_loss(output, y)
    assert not setup.own_code[0].files


def test_a_loss_can_name_its_task(tmp_path: Path) -> None:
    rows = "".join(f"{x},{x % 3}\n" for x in range(60))
    (tmp_path / "codes.csv").write_text("x,digit\n" + rows)
    body = "f = torch.nn.functional.cross_entropy\ndef own(output, y): return f(output, y)\n"
    options = {"data": f"{tmp_path}/codes.csv", "batch_size": "16"}
    file = source(tmp_path, body)
    assert prepared(**options, loss=f"{file}:own").task.name == "regression"
    file = source(tmp_path, body + "own.task = 'classification'")
    setup = prepared(**options, loss=f"{file}:own")
    assert setup.task.name == "classification" and setup.built.spec.n_outputs == 3
    file = source(tmp_path, body + "own.task = 'ranking'")
    with pytest.raises(ModelError, match="its attribute task is 'ranking', not one of regression"):
        prepared(**options, loss=f"{file}:own")


SCORE = "def score(output, y): return (output - y).abs().max()\n"


@pytest.mark.parametrize(
    ("option", "text", "problem"),
    [
        ("loss", "def own(output, y): return output - y", "returns a tensor of the shape [44, 1]; it"),
        ("loss", "def own(output, y): return 3.0", "returns a float; it must return a scalar tensor"),
        ("loss", "def own(output, y): return y.mean()", "it must return a scalar tensor that depends"),
        ("loss", "def own(output): return output.mean()", "mine:own fails: own() takes 1 positional"),
        ("loss", "own = 3", "option loss: mine has no function 'own'"),
        ("loss", "own = torch.nn.MSELoss", "option loss: mine has no function 'own'"),
        ("loss", "own = torch.nn.Linear(1, 1)", "is a module with parameters or buffers"),
        ("metrics", "def own(output, y): return output", "a tensor of the shape [44, 1], not a"),
        ("metrics", "def own(output, y): return 'good'", "mine:own returns a str, not a number"),
        ("metrics", "def own(output, y): 1 / 0", "option metrics: mine:own fails: division by zero"),
        ("metrics", "raise SystemExit(3)", "does not import: SystemExit: 3"),
        ("optimizer", "class own(torch.nn.Module): pass", "has no torch.optim.optimizer.Optimizer"),
    ],
)  # fmt: skip
def test_own_code_that_cannot_be_used_is_refused(
    tmp_path: Path, option: str, text: str, problem: str
) -> None:
    with pytest.raises(ModelError) as caught:
        prepared(**{option: f"{source(tmp_path, text)}:own"})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_other_scores_are_refused(tmp_path: Path) -> None:
    file = source(tmp_path, SCORE.replace("score", "r2") + SCORE)
    for metrics in (f"{file}:r2", f"{file}:score,{file}:score"):
        with pytest.raises(ModelError, match="is the name of another score; rename the function"):
            prepared(metrics=metrics)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"loss": "mine.py:"}, "option loss: 'mine.py:' is not one of auto, mse"),
        ({"loss": "mape"}, "option loss: 'mape' is not one of auto, mse"),
        ({"metrics": "r2"}, "option metrics: ('r2',) is not a list of file.py:function"),
        ({"loss": f"{OWN}:focal", "class_weights": "balanced"}, "option class_weights: a loss of your"),
        ({"optimizer": f"{OWN}:Signs", "momentum": 0.9}, "has no momentum; use sgd"),
        ({"optimizer": f"{OWN}:Signs", "compile": "default"}, "option compile: needs an optimizer of"),
    ],
)  # fmt: skip
def test_contradicting_options_of_own_code_are_refused(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_mapping({**SMALL, **options})
    assert problem in str(caught.value)


@pytest.mark.parametrize("loss", ["torch.hub:load", "torch:load", "runback.cli:main"])
def test_only_losses_of_torch_can_be_named(loss: str) -> None:
    with pytest.raises(ModelError, match=r"name a function of torch\.nn\.functional"):
        prepared(loss=loss)


def test_an_own_optimizer_takes_its_arguments() -> None:
    setup = prepared(optimizer=f"{OWN}:Signs", optimizer_args='{"beta": 0.5}', scheduler="step")
    group = setup.state.optimizer.param_groups[0]
    assert type(setup.state.optimizer).__name__ == "Signs"
    assert (group["beta"], group["lr"]) == (0.5, 0.01)
    with pytest.raises(ConfigError, match=r"Signs refuses \{'gamma': 1\}"):
        prepared(optimizer=f"{OWN}:Signs", optimizer_args='{"gamma": 1}')
    with pytest.raises(ConfigError, match=r"Signs has none; use 0"):
        prepared(optimizer=f"{OWN}:Signs", weight_decay=0.1)


def test_state_beside_the_state_dict_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = (
        "class Own(torch.optim.SGD):\n    n = 0\n    def step(self):\n"
        "        self.n += 1\n        self.param_groups[0]['lr'] /= self.n\n        super().step()"
    )
    prepared(optimizer=f"{source(tmp_path, body)}:Own", scheduler="step")
    assert capsys.readouterr().err.count("continued from its state_dict takes another step") == 1


def test_a_stopped_run_of_own_code_resumes_bit_identical(tmp_path: Path) -> None:
    options = {
        **SMALL, "loss": f"{OWN}:capped", "optimizer": f"{OWN}:Signs", "batch_size": "64",
        "metrics": f"{OWN}:largest_error,{OWN}:within_one", "checkpoint_every": "1",
    }  # fmt: skip
    config = TrainConfig.from_mapping(options)
    require_exact_resumes(tmp_path, config, [(2, 0), (1, 3)])
    assert len(history(tmp_path / "whole")) >= 3, "nothing was trained"


def test_two_files_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        source(tmp_path / folder, f"# {folder}\n{SCORE}{SCORE.replace('score', 'own')}")
    options = {"metrics": f"{tmp_path}/a/mine.py:score,{tmp_path}/b/mine.py:own"}
    with pytest.raises(ModelError, match="are kept with the run under the same name; rename one"):
        prepared(**options)


SCRIPT = """
import sys
import torch

import runback

LIMIT = 2.0


def capped(output, y):
    return (output - y).abs().clamp(max=LIMIT).mean()


def worst(output, y):
    return (output - y).abs().max()


worst.higher_is_better = True


class Slow(torch.optim.SGD):
    pass


done = runback.train(
    sys.argv[1], model="linear", loss=capped, metrics=[worst, sys.argv[2]], optimizer=Slow, epochs=3,
    lr=0.01, checkpoint_every=1,
)
print(done.run_id)
"""


@pytest.fixture
def scripted(workspace: Workspace) -> str:
    """A run of functions of a script, which is deleted, and of a file, which changes."""
    (workspace.folder / "script.py").write_text(SCRIPT)
    shutil.copyfile(OWN, workspace.folder / "extra.py")
    done = subprocess.run(
        [sys.executable, "script.py", DATA / "diabetes.csv", "extra.py:within_one"],
        cwd=workspace.folder, env=workspace.env, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (workspace.folder / "script.py").unlink()
    (workspace.folder / "extra.py").write_text("raise AssertionError('the wrong file')\n")
    return done.stdout.strip()


def test_a_run_of_own_functions_needs_only_its_id(
    workspace: Workspace, scripted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = workspace.client
    metrics = client.get_run(scripted).data.metrics
    assert {"val_worst", "test_worst", "val_within_one", "test_within_one"} <= metrics.keys()
    assert len(client.get_metric_history(scripted, "val_worst")) == 3
    scores = runback.evaluate(scripted).scores
    assert scores["worst"] == metrics["test_worst"] > 0
    assert runback.resume(scripted, epochs=4).run_id == scripted
    assert len(client.get_metric_history(scripted, "val_worst")) == 4
    kept = {file.name for file in (workspace.home(scripted) / "source").iterdir()}
    assert kept == {"own_loss.py", "own_metric_worst.py", "own_optimizer.py", "extra.py"}
    # Elsewhere: consent is needed, but not for predictions, which use none of it.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.rmtree(workspace.home(scripted))
    assert runback.load_model(scripted)(torch.zeros(1, 10)).shape == (1, 1)
    with pytest.raises(TrustError, match=r"the loss, metrics, optimizer of run .* --trust true"):
        runback.evaluate(scripted)
    assert runback.evaluate(scripted, trust=True).scores.keys() == scores.keys()


def test_own_functions_are_those_of_the_run_in_every_command(scripted: str) -> None:
    scores = runback.evaluate(scripted).scores
    assert runback.promote(scripted, metric="worst").score == scores["worst"]
    assert runback.reproduce(scripted).equal
    assert runback.fork(scripted, epochs=5).delivered
    for changed in ({"loss": "extra.py:capped"}, {"optimizer": "extra.py:Signs"}):
        with pytest.raises(ConfigError, match="a fork cannot change it"):
            runback.fork(scripted, epochs=5, **changed)


def test_a_function_in_a_tag_is_not_imported(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = workspace.train()
    monkeypatch.chdir(workspace.folder)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef f(a, b): pass\n")
    config = recorded(workspace.client, run_id)["config"]
    for option in ("loss", "metrics", "optimizer"):
        name = f"{workspace.folder}/evil.py:f"
        record(workspace.client, run_id, config={**config, option: name})
        for command in (runback.evaluate, runback.reproduce, runback.resume):
            if option != "optimizer" or command is not runback.evaluate:
                with pytest.raises(runback.RunbackError):
                    command(run_id)
    assert not Path("ran").exists()


def test_objects_of_another_kind_are_refused() -> None:
    for options, problem in (
        ({"loss": 3}, "option loss: 3 is neither a name nor a function"),
        ({"metrics": [lambda output, y: 1.0]}, "is defined inside a function or a class"),
        ({"optimizer": torch.nn.Linear}, "is neither a name nor a class of optim.Optimizer"),
    ):
        with pytest.raises(ModelError) as caught:
            runback.train(f"{DATA}/diabetes.csv", **options)  # type: ignore[arg-type]
        assert problem in str(caught.value)
