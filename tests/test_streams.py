"""Standard output holds the result alone, and a broken standard stream changes nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DATA, PROGRAMS, SECONDS, Workspace, wait_until
from finished_runs import FinishedRuns
from runback.cli import main
from runback.commands.load import loading
from runback.config import TrainConfig
from runback.errors import Interrupted, ModelError, UsageError
from runback.training.setup import prepare
from runback.user_code import pass_interruptions, refusing_exits
from tracking_parts import training_run

TABLE = str(DATA / "non_linear.csv")
EXITS = ("SystemExit(0)", "SystemExit()", "KeyboardInterrupt()", "Custom('x')",
         "asyncio.CancelledError()")  # fmt: skip
WHERE = ("import", "init", "forward", "dataset", "sample")


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The writing end of a pipe whose reader has exited."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def without_stderr(
    workspace: Workspace, pipe: int, *arguments: str, **env: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runback", *arguments], cwd=workspace.folder, text=True,
        env={**workspace.env, **env}, stdout=subprocess.PIPE, stderr=pipe,
    )  # fmt: skip


def test_a_usage_error_is_2_without_a_reader(workspace: Workspace, broken_pipe: int) -> None:
    for arguments in (("train", "--lrr", "3"), ("predict", "latest")):
        process = without_stderr(workspace, broken_pipe, *arguments)
        assert process.communicate(timeout=SECONDS) == ("", None)
        assert process.returncode == 2, arguments


def test_sigterm_is_143_without_a_reader(workspace: Workspace, broken_pipe: int) -> None:
    train = ("train", "--data", TABLE, "--epochs", "1000000")
    process = without_stderr(workspace, broken_pipe, *train)
    run_id = training_run(workspace)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=SECONDS) == ("", None)
    assert process.returncode == 143
    wait_until(lambda: workspace.client.get_run(run_id).info.status == "KILLED")


def test_a_training_goes_on_without_a_reader(workspace: Workspace, broken_pipe: int) -> None:
    """Also when the module itself, a warning or a logger writes to standard error."""
    module = workspace.folder / "loud.py"
    module.write_text(
        "import logging, sys, warnings\nfrom torch import nn\n\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        print('x' * 9999, file=sys.stderr, flush=True)\n"
        "        sys.__stderr__.write('y')\n"
        "        warnings.warn('z')\n"
        "        logging.error('l')\n"
        "        return super().forward(x)\n"
    )
    model = ("--model", f"{module}:Net", "--epochs", "3", "--register", "none", "--lr", "0")
    process = without_stderr(workspace, broken_pipe, "train", "--data", TABLE, *model)
    run_id, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert workspace.client.get_run(run_id.strip()).info.status == "FINISHED"


def test_predict_to_a_file_is_0_without_a_reader(
    finished_runs: FinishedRuns, tmp_path: Path, broken_pipe: int
) -> None:
    (tmp_path / "in.csv").write_text("x\n1\n2\n")
    options = ("--data", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv"))
    process = without_stderr(
        finished_runs.workspace, broken_pipe, "predict", finished_runs.ids["strong"], *options
    )
    assert process.communicate(timeout=SECONDS) == ("", None)
    assert process.returncode == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("arguments", [("--help",), ("sync",)])
def test_a_gone_reader_of_the_result_is_no_traceback(
    workspace: Workspace, broken_pipe: int, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runback", *arguments], env=workspace.env, text=True,
        stdout=broken_pipe, stderr=subprocess.PIPE, timeout=SECONDS,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1 or arguments == ("--help",)  # argparse ignores it


def test_what_a_module_prints_goes_to_standard_error(workspace: Workspace) -> None:
    model = f"{PROGRAMS}/talkative.py:Net"
    done = workspace.runback("train", "--data", TABLE, "--model", model, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert workspace.client.get_run(done.stdout.removesuffix("\n")).info.status == "FINISHED"
    for where in ("import", "init", "forward"):
        for how in ("printed", "written", "started"):
            assert f"{how} {where}\n" in done.stderr
    (workspace.folder / "in.csv").write_text("x\n1\n")
    done = workspace.runback("predict", "latest", "--data", "in.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "y" and len(done.stdout.splitlines()) == 2
    assert "printed import\n" in done.stderr


def test_the_python_api_leaves_standard_output_alone(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sys.stdout, sys.stderr, os.fstat(1).st_ino
    prepare(TrainConfig(data=TABLE, model=f"{PROGRAMS}/talkative.py:Net"))
    assert (sys.stdout, sys.stderr, os.fstat(1).st_ino) == before
    assert "written init\n" in capfd.readouterr().out


def test_main_restores_the_streams(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, os.fstat(1).st_ino
    assert main(["sync", "none"]) == 2
    assert (sys.stdout, sys.stderr, os.fstat(1).st_ino) == before
    assert capfd.readouterr().err.startswith("runback: no journal of run 'none' here")


@pytest.mark.parametrize("raises", EXITS)
@pytest.mark.parametrize("where", WHERE)
def test_user_code_that_exits_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, where: str, raises: str
) -> None:
    monkeypatch.setenv("EXIT_WHERE", where)
    monkeypatch.setenv("EXIT_RAISES", raises)
    monkeypatch.setattr("signal.getsignal", lambda _: "as in a training")
    data = f"{PROGRAMS}/exits.py:Rows" if where in ("dataset", "sample") else TABLE
    with pytest.raises(UsageError) as caught:
        prepare(TrainConfig(data=data, model=f"{PROGRAMS}/exits.py:Net"))
    assert raises.partition("(")[0].removeprefix("asyncio.") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_exit_before_the_run_is_2_and_no_run(workspace: Workspace) -> None:
    done = workspace.runback(
        "train", "--data", TABLE, "--model", f"{PROGRAMS}/exits.py:Net",
        EXIT_WHERE="import", EXIT_RAISES="SystemExit(0)",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("runback: option model") and done.stderr.count("\n") == 1
    assert workspace.client.search_runs(["0"]) == []


@pytest.mark.parametrize("raises", ["SystemExit(0)", "KeyboardInterrupt()"])
def test_an_exit_during_the_training_fails_the_run(workspace: Workspace, raises: str) -> None:
    done = workspace.runback(
        "train", "--data", TABLE, "--model", f"{PROGRAMS}/exits.py:Net", "--epochs", "50",
        EXIT_WHERE="training", EXIT_RAISES=raises,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    kind = raises.removesuffix(")").replace("(", ": ").rstrip()
    assert f"exits.py:Net or of its data raised {kind}" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED"


def test_an_exit_of_a_loaded_module_is_a_model_error(
    finished_runs: FinishedRuns,
) -> None:
    with (
        pytest.raises(ModelError, match=r"the model of run \w+ raised SystemExit: 0"),
        loading(finished_runs.ids["strong"]),
    ):
        raise SystemExit(0)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """A test worker has another handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
def test_interruptions_pass_through_handlers_of_user_code() -> None:
    for error in (Interrupted("", 15), KeyboardInterrupt()):
        with pytest.raises(type(error)), refusing_exits("it"):
            raise error
        with pytest.raises(type(error)):
            pass_interruptions(error)
    pass_interruptions(SystemExit(0))


def test_a_signal_in_a_constructor_ends_as_interrupted(workspace: Workspace) -> None:
    """It is not mistaken for an error of the user's code, which it interrupts."""
    (workspace.folder / "slow.py").write_text(
        "import time\nfrom torch import nn\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, *sizes):\n"
        "        super().__init__(*sizes)\n        open('begun', 'w').close()\n        time.sleep(60)\n"
    )
    process = workspace.start("train", "--data", TABLE, "--model", "slow.py:Net")
    wait_until((workspace.folder / "begun").exists)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=SECONDS)[1] == (
        "runback: interrupted before the training began\n"
    )
    assert process.returncode == 143
