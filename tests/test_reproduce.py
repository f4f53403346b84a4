"""`reproduce` trains a run again from its record and reports whether the results are equal."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import runback.commands.reproduce
from conftest import DATA, Workspace
from finished_runs import FinishedRuns
from runback import TrainConfig, resume, train
from runback.cli import main
from runback.commands import checkout
from runback.commands.reproduce import reproduce
from runback.commands.train import TrainResult
from runback.errors import TrustError, UsageError


def test_a_run_reproduces_to_the_last_bit(
    finished_runs: FinishedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the user's module as it was at training time, although the file has changed."""
    run_id = finished_runs.ids["own"]
    assert main(["reproduce", run_id]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] and found["weights_equal"] and found["first_difference"] is None
    assert found["points"] == 4 + 4 + 1  # cost, val_cost, lr
    again = finished_runs.workspace.client.get_run(found["reproduction"])
    assert again.data.tags["runback.reproduction_of"] == run_id
    assert again.info.status == "FINISHED"
    assert (
        len(finished_runs.workspace.client.search_model_versions(f"run_id = '{again.info.run_id}'"))
        == 0
    )


def test_a_resumed_run_reproduces(workspace: Workspace) -> None:
    """With a schedule set by the first number of epochs, and a patience that ended."""
    config = TrainConfig(
        data=str(DATA / "non_linear.csv"), epochs=3, scheduler="cosine", patience=9, lr=2e-4
    )
    run_id = train(config).run_id
    resume(run_id, epochs=5)
    resume(run_id, epochs=7, patience=1)
    found = reproduce(run_id)
    assert found.equal, found.first_difference


def test_a_differing_reproduction_is_reported(
    finished_runs: FinishedRuns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = finished_runs.ids["weak"]
    monkeypatch.setattr(
        runback.commands.reproduce, "run_training", lambda *_: TrainResult(other, True)
    )
    assert main(["reproduce", finished_runs.ids["strong"]]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["equal"] and not found["weights_equal"]
    assert found["first_difference"]["metric"] == "cost"
    assert found["first_difference"]["epoch"] == 6
    assert found["first_difference"]["again"] is None
    assert (found["versions"], found["checkout"]) == ({}, "")
    finished_runs.workspace.client.delete_tag(other, "runback.reproduction_of")


FACTOR = """import pathlib

import torch


class Net(torch.nn.Linear):
    def forward(self, x):
        factor = float(pathlib.Path("factor.txt").read_text()) if self.training else 1.0
        return factor * super().forward(x)
"""


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *own, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_is_reproduced_from_its_commit(workspace: Workspace) -> None:
    """With the changes that were not committed, once the user has agreed to run them."""
    folder, factor = workspace.folder, workspace.folder / "factor.txt"
    (folder / "net.py").write_text(FACTOR)
    (folder / ".gitignore").write_text("mlflow.db*\nmlruns\n.runback\n")
    for text in ("1.0", "2.0"):
        factor.write_text(text)
        if text == "1.0":
            git(folder, "init", "--quiet")
            git(folder, "add", ".")
            git(folder, "commit", "--quiet", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    run_id = workspace.train("--model", "net.py:Net", "--epochs", "3")
    factor.write_text("3.0")
    git(folder, "commit", "--quiet", "--all", "-m", "second")
    here = workspace.runback("reproduce", run_id)
    found = json.loads(here.stdout)
    assert (here.returncode, found["equal"], found["checkout"]) == (1, False, "")
    first, (one, now) = found["first_difference"], found["versions"]["git_commit"]
    assert (first["metric"], first["epoch"], one) == ("cost", 1, commit) and now != commit
    last = here.stderr.splitlines()[-1]
    was = f"cost of epoch 1 was {first['run']} and is {first['again']}"
    assert last == (f"runback: not reproduced: {was}; different git_commit: {commit}, now {now}")
    refused = workspace.runback("reproduce", run_id, "--checkout")
    assert refused.returncode == 2 and "uncommitted.patch" in refused.stderr
    for options in (["--trust"], []):  # consent is remembered
        again = workspace.runback("reproduce", run_id, "--checkout", "true", *options)
        assert again.returncode == 0, again.stderr
        found = json.loads(again.stdout)
        assert found["equal"] and (found["checkout"], found["versions"]) == (commit, {})
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    assert factor.read_text() == "3.0" and git(folder, "status", "--porcelain") == ""


def test_a_checkout_needs_a_commit_that_is_here(
    finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak, client = finished_runs.ids["weak"], finished_runs.workspace.client
    with pytest.raises(UsageError, match="run it in the git repository that the run was"):
        reproduce(weak, checkout=True)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "first")
    found: dict[str, str] = {}
    monkeypatch.setattr(checkout, "versions_of", lambda *_: found)
    for commit in ("", "--help", "HEAD"):
        found["git_commit"] = commit
        with pytest.raises(UsageError, match="has no git commit"):
            reproduce(weak, checkout=True)
    found["git_commit"] = "a" * 40
    with pytest.raises(UsageError, match=f"commit {'a' * 40} of run {weak} is not in"):
        reproduce(weak, checkout=True)
    found["git_commit"] = git(tmp_path, "commit-tree", "HEAD^{tree}", "-m", "of another person")
    with pytest.raises(TrustError, match="is not in the history of HEAD"):
        reproduce(weak, checkout=True)
    assert client.get_run(weak).info.status == "FINISHED"


def test_changed_data_are_refused_before_training(
    finished_runs: FinishedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = finished_runs.workspace.folder / "table.csv"
    shutil.copyfile(table, tmp_path / "kept.csv")
    try:
        table.write_text(table.read_text() + "1,2\n")
        assert main(["reproduce", finished_runs.ids["strong"]]) == 2
        assert "not the data of the run" in capsys.readouterr().err
    finally:
        shutil.copyfile(tmp_path / "kept.csv", table)


def test_the_digest_covers_every_weight_and_buffer() -> None:
    module = torch.nn.BatchNorm1d(2)
    before = runback.commands.reproduce.weights_digest(module)
    module.num_batches_tracked.add_(1)
    assert runback.commands.reproduce.weights_digest(module) != before
