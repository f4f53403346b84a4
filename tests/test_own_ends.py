"""`runback.run`: invalid arguments, errors in the loop, `break`, and state that cannot be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import runback
from conftest import Workspace
from own_runs import points, runs_of

ROWS = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": ""}, "the name is ''"),
        ({"params": {"a;": 1}}, "param 'a;'"),
        ({"params": {"seed": 1}}, "param seed is recorded from the argument"),
        ({"key": "it's"}, "contains a quotation mark"),
        ({"register": "a/b"}, "register 'a/b' contains / or :"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; it must be at least 1"),
        ({"keep_checkpoints": 1}, "keep_checkpoints is 1; it must be 0 or at least 2"),
    ],
    ids=["name", "param", "seed", "key", "register", "every", "keep"],
)
def test_an_invalid_argument_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(runback.UsageError, match=text):
        runback.run(**{"name": "own", **options})


def test_an_exception_ends_the_run_as_failed(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="mine"), runback.run("own") as run:
        run.keep(model=nn.Linear(1, 1))
        for _ in run.epochs(2):
            raise ValueError("mine")
    (stored,) = runs_of(workspace)
    assert stored.info.status == "FAILED"
    assert "ValueError: mine" in stored.data.tags["runback.error"]
    with pytest.raises(runback.UsageError, match="the run is not open"):
        run.log(cost=1)


def test_a_loop_left_with_break_records_its_last_epoch(workspace: Workspace) -> None:
    model = nn.Linear(1, 1)
    with runback.run("own") as run:
        run.keep(model=model)
        for epoch in run.epochs(9):
            run.log(cost=epoch)
            if epoch == 2:
                break
        run.log_final(score=4)
    (stored,) = runs_of(workspace)
    assert points(workspace, stored.info.run_id, "cost") == [(1, 0), (2, 1), (3, 2)]
    assert points(workspace, stored.info.run_id, "score") == [(3, 4)]
    with pytest.raises(runback.RunNotFoundError, match="start its script again"):
        runback.resume(run.id)
    with runback.run("own", resume=run.id) as again:
        again.keep(model=nn.Linear(1, 1))
        assert list(again.epochs(4)) == [3]
    assert len(runs_of(workspace)) == 1


@pytest.mark.parametrize("value", [object(), (1,), {1: 2}], ids=["object", "tuple", "number_key"])
def test_state_that_is_not_json_is_refused(workspace: Workspace, value: object) -> None:
    with pytest.raises(runback.UsageError, match=r"state\['a'\]"), runback.run("own") as run:
        for _ in run.epochs(1):
            run.state["a"] = value
    assert [stored.info.status for stored in runs_of(workspace)] == ["FAILED"]


def test_an_object_that_needs_pickle_is_refused(workspace: Workspace) -> None:
    class Holder:
        def state_dict(self) -> dict[str, Any]:
            return {"self": self}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(runback.UsageError, match="keep: holder: "), runback.run("own") as run:
        run.keep(holder=Holder())
        for _ in run.epochs(1):
            pass


def test_a_loader_of_another_length_is_refused(workspace: Workspace) -> None:
    model, longer = nn.Linear(1, 1), DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2)
    with pytest.raises(KeyError), runback.run("own", key="k") as run:
        run.keep(model=model)
        for _ in run.epochs(1):
            for batch in run.batches(ROWS):
                if run.state:
                    raise KeyError
                run.state["batch"] = json.loads(json.dumps(batch[0].tolist()))
                run.checkpoint()
    with (
        pytest.raises(runback.UsageError, match=r"the loader has 4 batches; .* it had 3"),
        runback.run("own", key="k") as run,
    ):
        run.keep(model=model)
        for _ in run.epochs(1):
            list(run.batches(longer))
