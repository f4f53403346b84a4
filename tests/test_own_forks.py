"""`runback.run(fork=...)`: a new run of an own loop from a checkpoint of another one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import runback
from conftest import DATA, PROGRAMS, SECONDS, Workspace
from own_runs import points, runs_of
from runback.tracking import tags
from tracking_parts import recorded

LOADER = DataLoader(TensorDataset(torch.arange(12.0).reshape(12, 1)), batch_size=4, shuffle=True)


def trained(
    count: int = 4, kind: str = "epochs", dies: int = -1, **options: Any
) -> tuple[str, list[float]]:
    """A run of a small loop; its ID and the weights at its end."""
    torch.manual_seed(3)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with runback.run("own", **{"params": {"lr": 0.1}, **options}) as run:
        run.keep(model=model, optimizer=optimizer)
        for index in getattr(run, kind)(count):
            for (x,) in [next(run.batches(LOADER))] if kind == "steps" else run.batches(LOADER):
                if index == dies:
                    raise KeyError
                cost = (model(x) - 2 * x + torch.randn(())).square().mean()
                optimizer.zero_grad()
                cost.backward()
                optimizer.step()
            run.state["seen"] = [*run.state.get("seen", []), index]
            run.log(cost=cost)
        assert run.state["seen"] == list(range(count))
    return run.id, [value.item() for value in model.parameters()]


@pytest.mark.parametrize("kind", ["epochs", "steps"])
def test_an_unchanged_fork_of_a_loop_is_bit_identical(workspace: Workspace, kind: str) -> None:
    run_id, weights = trained(kind=kind)
    forked, again = trained(kind=kind, fork=run_id[:8], at=2)
    assert again == weights
    assert points(workspace, forked, "cost") == points(workspace, run_id, "cost")[2:]
    stored = workspace.client.get_run(forked).data.tags
    assert stored[tags.FORK_OF] == run_id
    assert recorded(workspace.client, forked)["fork"] == {"epoch": 2}
    assert stored[tags.NOTE].startswith(f"Fork of run `{run_id}` after epoch 2.\n\n- Program: ")
    assert f"runback show {forked}" in stored[tags.NOTE]


def test_a_fork_that_failed_at_once_goes_on(workspace: Workspace) -> None:
    """Before its first checkpoint, from the one that it has kept; with other params and seed."""
    run_id, _ = trained(2)
    other: dict[str, Any] = {"params": {"lr": 0.2}, "seed": 5}
    with pytest.raises(KeyError):
        trained(dies=2, fork=run_id, key="k", **other)
    for folder in (run_id, runs_of(workspace)[1].info.run_id):
        workspace.home(folder).rename(workspace.folder / folder)  # as on another machine
    again = trained(key="k", **other)
    assert len(runs_of(workspace)) == 2
    assert again[1] == trained(fork=run_id, **other)[1]
    assert recorded(workspace.client, again[0])["fork"]["changed"] == "lr 0.1 -> 0.2, seed 0 -> 5"


def test_a_killed_script_of_a_fork_goes_on(workspace: Workspace) -> None:
    def script(*arguments: str) -> str:
        command = [sys.executable, str(PROGRAMS / "own_loop.py"), *arguments]
        done = subprocess.run(
            command, cwd=workspace.folder, env=workspace.env, capture_output=True, text=True,
            timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode in (0, -9), done.stderr
        return done.stdout

    whole = script("first")
    (first,) = (run.info.run_id for run in runs_of(workspace))
    fork = ("--fork", first, "--at", "3")
    assert script("second", "9", "4", "1", *fork) == ""
    assert script("second", *fork) == whole
    assert len(runs_of(workspace)) == 2


def test_a_fork_of_a_loop_that_does_not_fit_is_refused(workspace: Workspace) -> None:
    run_id, _ = trained(3)
    before = len(runs_of(workspace))
    with pytest.raises(runback.UsageError, match="no checkpoint of epoch 9; it has 1, 2, 3"):
        trained(fork=run_id, at=9)
    with pytest.raises(runback.UsageError, match="at is the place of a fork"):
        trained(at=2)
    assert len(runs_of(workspace)) == before
    with pytest.raises(runback.UsageError, match="steps: the run has a loop over epochs"):
        trained(kind="steps", fork=run_id)
    with (
        pytest.raises(runback.UsageError, match="no state of 'ema', only of model, optimizer"),
        runback.run("own", fork=run_id) as run,
    ):
        run.keep(ema=nn.Linear(1, 1))
        list(run.epochs(9))
    with pytest.raises(KeyError):
        trained(dies=1, key="k")
    with pytest.raises(runback.UsageError, match="was not begun as this fork"):
        trained(fork=run_id, key="k")


def test_a_table_run_is_not_forked_by_a_loop(workspace: Workspace) -> None:
    run_id = runback.train(str(DATA / "non_linear.csv"), epochs=1, checkpoint_every=1).run_id
    with pytest.raises(runback.UsageError, match=f"is forked with: runback fork {run_id}"):
        trained(fork=run_id)
