"""`runback.run`: a loop of one's own that is killed and run again ends as if never killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import runback
from conftest import PROGRAMS, Workspace, wait_until
from own_runs import points, program, runs_of
from runback.own_loop.own_run import OwnRun

ROWS = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)


def own_loop(place: Workspace, *arguments: object) -> subprocess.CompletedProcess[str]:
    return program(place, "own_loop.py", *arguments)


@pytest.mark.parametrize(
    ("kill", "options"),
    [
        pytest.param((signal.SIGKILL, 2, 0), [], marks=pytest.mark.chaos),
        ((signal.SIGKILL, 3, 2), ["--every-batch"]),
        ((signal.SIGKILL, 1, 3), ["--every-batch", "--workers", 2]),
        ((signal.SIGTERM, 2, 4), ["--loader", "noisy"]),
        ((signal.SIGINT, 4, 1), ["--loader", "stream"]),
        pytest.param(
            (signal.SIGKILL, 2, 3), ["--every-batch", "--seed", -1], marks=pytest.mark.chaos
        ),
    ],
    ids=["epoch", "batch", "workers", "noisy_sigterm", "stream_sigint", "no_seed"],
)
def test_a_killed_loop_run_again_is_bit_identical(
    workspace: Workspace, kill: tuple[int, int, int], options: list[object]
) -> None:
    killed = own_loop(workspace, "killed", *map(int, kill), *options)
    code = -kill[0] if kill[0] == signal.SIGKILL else 128 + kill[0]
    assert killed.returncode == code, killed.stderr
    if kill[0] != signal.SIGKILL:
        assert runs_of(workspace)[0].info.status == "KILLED"
    again, whole = own_loop(workspace, "killed", *options), own_loop(workspace, "whole", *options)
    assert again.returncode == whole.returncode == 0, again.stderr + whole.stderr
    assert again.stdout == whole.stdout
    one, other = (run.info.run_id for run in runs_of(workspace))
    for name, count in (("cost", 5), ("rates/lr", 5), ("last", 1)):
        found = points(workspace, one, name)
        assert found == points(workspace, other, name) and len(found) == count
    assert [run.info.status for run in runs_of(workspace)] == ["FINISHED"] * 2


def test_a_loop_over_steps_is_bit_identical(workspace: Workspace) -> None:
    assert program(workspace, "own_steps.py", "killed", 17).returncode == -signal.SIGKILL
    again, whole = (program(workspace, "own_steps.py", key) for key in ("killed", "whole"))
    assert again.returncode == whole.returncode == 0, again.stderr + whole.stderr
    assert again.stdout == whole.stdout
    one, other = (run.info.run_id for run in runs_of(workspace, "steps"))
    found = points(workspace, one, "part/weight")
    assert found == points(workspace, other, "part/weight")
    assert [step for step, _ in found] == list(range(1, 31, 3))


def test_other_params_or_objects_change_nothing(workspace: Workspace) -> None:
    assert own_loop(workspace, "k", int(signal.SIGTERM), 2, 0).returncode == 143
    other = own_loop(workspace, "k", "--lr", 0.2)
    assert other.returncode == 2
    assert "param lr: the run has 0.05, not 0.2" in other.stderr
    wider = own_loop(workspace, "k", "--width", 9)
    assert wider.returncode == 2
    assert "keep: model: the state of the checkpoint does not fit" in wider.stderr
    assert "size mismatch for 0.weight" in wider.stderr
    assert "Traceback" not in other.stderr + wider.stderr
    (run,) = runs_of(workspace)
    assert run.info.status == "KILLED"
    assert len(points(workspace, run.info.run_id, "cost")) == 2


def test_a_key_that_is_in_use_exits_with_code_3(workspace: Workspace) -> None:
    command = [sys.executable, str(PROGRAMS / "own_loop.py"), "k", "--seconds", "600"]
    with subprocess.Popen(command, cwd=workspace.folder, env=workspace.env) as first:
        wait_until(lambda: len(runs_of(workspace)) == 1, 60)
        second = own_loop(workspace, "k")
        first.kill()
    assert second.returncode == 3
    assert "the key k is held by process" in second.stderr
    assert len(runs_of(workspace)) == 1


# One open run, with one epoch begun


@pytest.fixture(scope="module")
def open_run(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[OwnRun, str]]:
    folder = tmp_path_factory.mktemp("own")
    uri = f"sqlite:///{folder}/mlflow.db"
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("RUNBACK_HOME", str(folder / "home"))
        patch.chdir(folder)
        with runback.run("own", params={"a": 1}, experiment="loops") as run:
            run.keep(model=nn.Linear(1, 1))
            for _ in run.epochs(1):
                run.log(cost=torch.tensor(1.5))
                next(run.batches(ROWS))
                yield run, uri


REFUSALS = {
    "name_twice": (lambda run: run.log(cost=1), "metric cost: is recorded twice in epoch 0"),
    "text": (lambda run: run.log(a="1"), "metric a: str is not a number"),
    "matrix": (lambda run: run.log(a=torch.ones(2)), "a Tensor of shape"),
    "metric_name": (lambda run: run.log(**{"a;b": 1}), "has characters other than"),
    "keep_late": (lambda run: run.keep(a=nn.Linear(1, 1)), "before the loop begins"),
    "batches_twice": (lambda run: next(run.batches(ROWS)), "is used twice in an epoch"),
    "steps": (lambda run: next(run.steps(3)), "the run has a loop over epochs already"),
    "fewer": (lambda run: next(run.epochs(-1)), "epochs: -1 is not a number of epochs"),
    "float": (lambda run: next(run.epochs(1.5)), "epochs: 1.5 is not a number of epochs"),
    "nested": (lambda run: runback.run("other").__enter__(), "another run is open"),
    "tag": (lambda run: run.tag("mlflow.user", "x"), "are reserved"),
    "no_file": (lambda run: run.log_file("none.txt"), "none.txt: No such file"),
    "outside": (lambda run: run.log_file(__file__, "../x"), "artifact '../x"),
    "format": (lambda run: run.log_figure(Figure(), "a.doc"), "log_figure: a.doc: "),
    "slash": (lambda run: run.log_figure(Figure(), "a/b.png"), "contains /"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_refused_in_one_sentence(open_run: tuple[OwnRun, str], name: str) -> None:
    mistake, text = REFUSALS[name]
    with pytest.raises(runback.UsageError) as caught:
        mistake(open_run[0])
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_files_figures_and_tags_are_in_the_run(open_run: tuple[OwnRun, str]) -> None:
    run, uri = open_run
    Path("notes.txt").write_text("notes")
    run.log_file("notes.txt")
    run.log_file("notes.txt", "")
    run.log_figure(Figure(), "samples.png")
    run.tag("team", "vision")
    client = mlflow.MlflowClient(uri)
    wait_until(lambda: client.get_run(run.id).data.tags.get("team") == "vision")
    found = {
        file.path
        for folder in ("", "files", "plots")
        for file in client.list_artifacts(run.id, folder)
    }
    assert {"notes.txt", "files/notes.txt", "plots/samples.png"} <= found
    stored = client.get_run(run.id)
    assert client.get_experiment(stored.info.experiment_id).name == "loops"
    assert stored.data.params == {"a": "1", "seed": "0"}
    assert run.folder.name == run.id
