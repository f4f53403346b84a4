"""`runback resume` of a run with a loop of its own: its script is started again, as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import runback
from conftest import PROGRAMS, SECONDS, Workspace
from own_runs import points, runs_of
from runback.storage.scripts import ScriptStart, remember_start, start_of
from runback.tracking import tags


def script(place: Workspace, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the script, which is a file in the folder of the workspace."""
    shutil.copyfile(PROGRAMS / "own_script.py", place.folder / "mine.py")
    (place.folder / "numbers.txt").write_text("1 2 3 4")
    return subprocess.run(
        [sys.executable, "-W", "error", "mine.py", "numbers.txt", *arguments],
        cwd=place.folder, env={**place.env, **env}, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip


@pytest.fixture
def killed(workspace: Workspace) -> str:
    """The ID of a run whose script was killed in its third epoch."""
    assert script(workspace, "2", OWN_COLOUR="red").returncode == -9
    (run,) = runs_of(workspace)
    return str(run.info.run_id)


def test_a_killed_script_is_resumed_bit_identically(workspace: Workspace, killed: str) -> None:
    """From another folder, with the variable that it has named; the exit code is the script's."""
    (workspace.folder / "other").mkdir()
    other = Workspace(workspace.folder / "other", workspace.uri, workspace.env)
    resumed = other.runback("resume", killed[:8])
    assert (resumed.returncode, resumed.stdout) == (5, f"{killed}\n"), resumed.stderr
    started = (
        f"run {killed}: starting python -W error mine.py numbers.txt 2 in {workspace.folder} with"
    )
    assert f"{started} the recorded OWN_COLOUR\n" in resumed.stderr
    assert f"run {killed} resumed after epoch" in resumed.stderr
    whole = script(workspace, OWN_COLOUR="red")
    assert whole.returncode == 0 and whole.stdout in resumed.stderr
    one, two = runs_of(workspace)
    assert points(workspace, killed, "cost") == points(workspace, two.info.run_id, "cost")
    assert one.info.status == "FINISHED"


def test_a_script_that_is_gone_or_given_options_is_named(workspace: Workspace, killed: str) -> None:
    refused = workspace.runback("resume", killed, "--epochs", "9")
    assert refused.returncode == 2
    assert f"option epochs: run {killed} has a loop of its own" in refused.stderr
    (workspace.folder / "mine.py").unlink()
    gone = workspace.runback("resume", killed)
    assert (gone.returncode, gone.stdout) == (2, "")
    assert f"its script {workspace.folder}/mine.py does not exist" in gone.stderr


def test_what_a_store_says_starts_nothing(
    workspace: Workspace, killed: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On another machine, whose RUNBACK_HOME has a record that came with the run."""
    trap = workspace.folder / "trap.py"
    trap.write_text("open('sprung', 'w')\n")
    command = json.dumps([str(trap)])
    for name in ("mlflow.source.name", "runback.script", "runback.config.script"):
        workspace.client.set_tag(killed, name, command)
    known = Path(os.environ["XDG_STATE_HOME"]) / "runback" / "scripts" / f"{killed}.json"
    shutil.copytree(known.parent, workspace.home("scripts"))
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    refused = workspace.runback("resume", killed, "--trust", "true", XDG_STATE_HOME=elsewhere)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is known only on the machine that ran it" in refused.stderr
    assert "Traceback" not in refused.stderr
    known.write_text("[1]")
    damaged = workspace.runback("resume", killed)
    assert damaged.returncode == 2 and "is known only on the machine" in damaged.stderr
    assert not (workspace.folder / "sprung").exists()


def test_a_changed_script_is_started_and_told(workspace: Workspace, killed: str) -> None:
    own = workspace.folder / "mine.py"
    own.write_text(own.read_text().replace("sys.exit(5", "sys.exit(6"))
    resumed = workspace.runback("resume", killed)
    assert resumed.returncode == 6
    assert f"{own} has changed since; it is started as it is now" in resumed.stderr


def test_a_notebook_is_not_started_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a later session the way in which a script was started."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with runback.run("own") as run:
        run.keep(model=nn.Linear(1, 1))
        list(run.epochs(1))
    refused = workspace.runback("resume", run.id)
    assert refused.returncode == 2
    assert "was begun in a notebook or an interactive session: run its cell again" in refused.stderr
    remember_start(run.id, ScriptStart(script=__file__, folder="/"))
    with runback.run("own", resume=run.id) as again:
        again.keep(model=nn.Linear(1, 1))
        list(again.epochs(2))
    known = start_of(run.id)
    assert known is not None and known.script == __file__


def test_the_named_variable_continues_one_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(runback.UsageError, match="environment is 'HOME'; give a list of names"):
        runback.run("own", environment="HOME")
    with runback.run("own") as run:
        list(run.epochs(1))
    monkeypatch.setenv("RUNBACK_RUN_ID", run.id)
    for expected in (True, False):
        with runback.run("own") as again:
            assert again.is_resumed == expected == (again.id == run.id)
            list(again.epochs(1))
    assert tags.FORK_OF not in workspace.client.get_run(run.id).data.tags
