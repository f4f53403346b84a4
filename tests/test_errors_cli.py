"""A user's mistake: one sentence, exit code 2, no traceback, and no run left RUNNING."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conftest import DATA, PROGRAMS, ROOT, SECONDS, Workspace
from runback.cli import main
from runback.errors import UsageError
from tracking_parts import create_pending

MISTAKES = {
    "lrr=3": "runback: unknown option 'lrr'; did you mean 'lr'?",
    "lr=abc": "runback: option lr: 'abc' is not a number",
    "data=missing.csv": "runback: missing.csv: no such file",
    "device=tpu": "runback: option device: 'tpu' is not one of auto, cpu, cuda, cuda:N, mps",
}


@dataclass
class Launch:
    """A finished `mlflow run` and a client of its store."""

    done: subprocess.CompletedProcess[str]
    client: MlflowClient


def launch(folder: Path, database: Path, parameter: str) -> Launch:
    folder.mkdir()
    shutil.copyfile(database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_RUN", "MLFLOW_EXP"))
    }
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri,
        "RUNBACK_HOME": str(folder / ".runback"),
    }
    done = subprocess.run(
        ["mlflow", "run", str(ROOT), "--env-manager", "local", "-P", parameter],
        cwd=folder, env=env, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    return Launch(done, MlflowClient(uri))


def test_an_invalid_mlflow_run_is_one_failed_run(tmp_path: Path, empty_database: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(launch, tmp_path / str(index), empty_database, parameter)
            for index, parameter in enumerate(MISTAKES)
        ]
    for future, (parameter, sentence) in zip(futures, MISTAKES.items(), strict=True):
        found = future.result()
        said = [line for line in found.done.stderr.splitlines() if line.startswith("runback:")]
        assert found.done.returncode not in (0, None), parameter
        assert said == [sentence], found.done.stderr
        assert "Traceback" not in found.done.stderr
        (run,) = found.client.search_runs(["0"])
        assert run.info.status == "FAILED", parameter
        assert run.info.end_time is not None
    assert not list(tmp_path.glob("*/.runback/*")), "nothing local is left of a run that never was"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "missing.csv"], "missing.csv: no such file"),
        (["--data", "own.csv", "--batch-size", "999", "--drop-last", "true"],
         "option batch_size: 999 with drop_last leaves no batch of the 160 training rows; "
         "use a batch_size of at most 160, or drop_last false"),
        (["--data", "own.csv", "--model", "mlp", "--model-args", '{"depth": 3}'],
         "option model_args: mlp is called as Mlp(n_features, n_targets, **model_args): "
         "got an unexpected keyword argument 'depth'"),
        (["--data", "own.csv", "--scheduler", "step", "--scheduler-args", '{"step_size": 0}'],
         "option scheduler_args: step refuses {'step_size': 0, 'gamma': 0.1}: "
         "step_size is not a whole number of at least 1"),
        (["--data", "own.csv", "--device", "cuda:77"], "option device: 'cuda:77': this machine has "),
        (["--data", "own.csv", "--register", " "],
         "option register: a model cannot be registered as ' ': it is empty; use another name, or "
         "none"),
        (["--data", "own.csv", "--register", "../x"], "option register: a model cannot be"),
        (["--data", "own.csv", "--register", "x" * 257],
         "option register: a model cannot be registered as a name of 257 characters"),
        (["--data", "six.csv"], "option split: 8:1:1 of 6 rows leaves no validation row; "
         "use more rows, or another ratio such as 1:0:0"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_an_invalid_option_leaves_no_run(
    workspace: Workspace, options: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the test process, to save time, with a real courier."""
    shutil.copyfile(DATA / "non_linear.csv", "own.csv")
    shutil.copyfile(DATA / "multiple_linear.csv", "six.csv")
    assert main(["train", *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"runback: {sentence}")
    assert err.count("\n") == 1
    assert workspace.client.search_runs(["0"]) == []
    assert not (workspace.folder / ".runback").exists()


def test_refused_arguments_fail_their_run_only(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `mlflow run` nothing else reports the reason in the run."""
    client = workspace.client

    def refused(arguments: str, **run: str) -> tuple[str, str]:
        run_id = client.create_run("0", tags=run).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        assert main(arguments.split()) == 2, arguments
        found = client.get_run(run_id)
        return found.info.status, found.data.tags.get("runback.error", "")

    unknown = "unknown option 'lrr'; did you mean 'lr'?"
    assert refused("train --lrr 3") == ("FAILED", unknown)
    assert refused("train --lr abc") == ("FAILED", "option lr: 'abc' is not a number")
    assert refused("evaluate --lrr 3")[0] == "RUNNING"  # of a run that its own owner ends
    trained = {"runback.run": '{"config": {}}'}
    assert refused("train --lrr 3", **trained) == ("RUNNING", "")
    client.set_terminated(os.environ["MLFLOW_RUN_ID"], "FINISHED")
    assert main(["train", "--data", "missing.csv"]) == 2
    assert client.get_run(os.environ["MLFLOW_RUN_ID"]).info.status == "FINISHED"


def test_an_invalid_option_exits_with_two(workspace: Workspace) -> None:
    done = workspace.runback("train", "--lr", "abc")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "runback: option lr: 'abc' is not a number\n"


def test_a_training_out_of_memory_fails_in_one_sentence(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    data, model = str(DATA / "non_linear.csv"), f"{PROGRAMS}/hungry.py:Hungry"
    assert main(["train", "--data", data, "--model", model, "--epochs", "2"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "runback: no memory left on cpu; try a smaller batch_size or a smaller model (" in err
    assert "Traceback" not in err
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED"


def test_training_with_closed_streams_finishes(
    workspace: Workspace,
) -> None:
    """With closed streams, the next opened files would get their descriptors."""
    train = f"{sys.executable} -m runback train --data {DATA}/non_linear.csv --epochs 2"
    closed = subprocess.run(
        ["sh", "-c", f"{train} <&- >&- 2>&-"], env=workspace.env, timeout=SECONDS
    )
    assert closed.returncode == 0
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FINISHED"


def test_a_full_standard_output_is_one_sentence(workspace: Workspace) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "runback", "sync"], stdout=full, stderr=subprocess.PIPE,
            env=workspace.env, text=True, timeout=SECONDS,
        )  # fmt: skip
    sentence = "runback: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, sentence)


def test_a_missing_experiment_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = workspace.client.create_experiment("deleted")
    workspace.client.delete_experiment(deleted)
    for what, value in (("ID", "77"), ("ID", "abc"), ("ID", deleted), ("NAME", "deleted")):
        with monkeypatch.context() as patch:
            patch.setenv(f"MLFLOW_EXPERIMENT_{what}", value)
            with pytest.raises(UsageError, match=f"^MLFLOW_EXPERIMENT_{what} '{value}': "):
                create_pending(workspace.client)


def test_a_new_experiment_name_is_created_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new / one")
    for _ in range(2):
        run_id = create_pending(workspace.client)
        experiment = workspace.client.get_run(run_id).info.experiment_id
        assert workspace.client.get_experiment(experiment).name == "new / one"


def test_an_ended_mlflow_run_id_is_refused_unchanged(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLFLOW_RUN_ID can be left over in the environment."""
    other = workspace.client.create_run("0").info.run_id
    workspace.client.set_terminated(other)
    before = workspace.client.get_run(other).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", other)
    for data, sentence in (
        ("missing.csv", "missing.csv: no such file"),
        (f"{DATA}/non_linear.csv", f"MLFLOW_RUN_ID {other}: the run has ended (FINISHED)"),
    ):
        assert main(["train", "--data", data, "--epochs", "1"]) == 2
        assert capfd.readouterr().err.startswith(f"runback: {sentence}")
        assert workspace.client.get_run(other).to_dictionary() == before
