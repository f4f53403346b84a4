"""Trainings through a proxy that makes faults: each point once, a true status, nothing left open.

The short versions run by default; `make chaos` runs the long ones.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter

import pytest

from conftest import DATA, Server, Workspace
from fault_proxy import FaultProxy, Script, at_random
from runback import TrainConfig, train
from runback.commands.sync import sync
from runback.errors import TrackingError
from runback.storage.paths import pending_run_dirs
from tracking_parts import check_delivered, status_of

EPOCHS = 20
CONFIG = TrainConfig(
    data=str(DATA / "non_linear.csv"), epochs=EPOCHS, batch_size=32, checkpoint_every=10
)
# A request is given up after 3 s, so that faults are repaired in seconds instead of minutes.
PATIENCE = {
    "MLFLOW_EXPERIMENT_NAME": "faults",  # made by the server, so that artifacts go through it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "RUNBACK_CONNECT_SECONDS": "30",
    "RUNBACK_DRAIN_SECONDS": "60",
}


@pytest.fixture
def proxy(remote: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch):
    """A proxy before the server, without faults yet; the test process and its children use it."""
    with FaultProxy(server.port, lambda *_: "").running() as running:
        for name, value in {**PATIENCE, "MLFLOW_TRACKING_URI": running.uri}.items():
            monkeypatch.setenv(name, value)
        yield running


def runs_of(where: Workspace) -> dict[str, str]:
    """The status of each run that is not deleted."""
    experiments = [e.experiment_id for e in where.client.search_experiments()]
    return {run.info.run_id: run.info.status for run in where.client.search_runs(experiments)}


def check_whole(where: Workspace, run_id: str, epochs: int = EPOCHS) -> None:
    """Each point once, all files, a true status, one READY model, one version."""
    client = where.client
    assert status_of(where, run_id) == "FINISHED"
    assert check_delivered(where, run_id) >= 2 * epochs
    steps = [point.step for point in client.get_metric_history(run_id, "cost")]
    assert sorted(steps) == list(range(1, epochs + 1))
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"split.json", "checkpoints", "plots", "environment"} <= names
    experiments = [client.get_run(run_id).info.experiment_id]
    (model,) = client.search_logged_models(experiments, filter_string=f"source_run_id = '{run_id}'")
    assert str(model.status) == "READY"
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    assert version.source == f"models:/{model.model_id}"
    (output,) = client.get_run(run_id).outputs.model_outputs
    assert output.model_id == model.model_id


def trained(config: TrainConfig) -> tuple[str, str]:
    """Trains once; how it ended, and the run's ID, empty if no run was created."""
    try:
        result = train(config)
    except TrackingError as error:
        assert "Traceback" not in str(error)
        return "refused at the start", ""
    return "complete" if result.delivered else "delivered later", result.run_id


def train_through_faults(
    remote: Workspace, proxy: FaultProxy, times: int, generator: random.Random
) -> Counter[str]:
    """Trains `times` times with faults in one of five requests, or one of twenty; the outcomes."""
    outcomes, ids = Counter[str](), []
    for index in range(times):
        proxy.choose = at_random(generator, (0.2, 0.05)[index % 2])
        outcome, run_id = trained(CONFIG)
        outcomes[outcome] += 1
        ids += [run_id] if run_id else []
    proxy.choose = lambda *_: ""
    for folder in pending_run_dirs():  # what a late response may still create has a time limit
        os.utime(folder.journal, (0, 0))
    assert sync().waiting == 0
    assert runs_of(remote) == dict.fromkeys(ids, "FINISHED")
    for run_id in ids:
        check_whole(remote, run_id)
    assert not pending_run_dirs()
    return outcomes


def test_faults_at_any_time_leave_whole_runs(remote: Workspace, proxy: FaultProxy) -> None:
    train_through_faults(remote, proxy, 3, random.Random(3))


@pytest.mark.chaos
def test_200_trainings_with_faults_leave_whole_runs(remote: Workspace, proxy: FaultProxy) -> None:
    times = int(os.environ.get("FAULT_TRAININGS", "200"))
    outcomes = train_through_faults(remote, proxy, times, random.Random(200))
    sys.stdout.write(f"{dict(outcomes)}; requests by fault: {dict(proxy.counts)}\n")


REQUESTS = (
    "experiments/create",
    "runs/search", "runs/create", "runs/log-batch", "runs/log-inputs", "runs/update",
    "mlflow/logged-models", "runs/outputs", "registered-models/create", "model-versions/create",
    "split.json", "model_state_dict.pt",
)  # fmt: skip
# What the server has created is found and not requested again: first the faults before that.
BEFORE = ("reset", "429", "500", "503", "html")
AFTER = ("late", "truncate", "reset after", "500 after", "503 after", "html after")


def fail_each_request(remote: Workspace, proxy: FaultProxy, faults_of: dict[str, list[str]]) -> int:
    """Trains once for each kind of request, which gets its faults in a row; the faults made."""
    known: set[str] = set()
    for end, faults in faults_of.items():
        proxy.choose = script = Script(end)
        script.faults = list(faults)
        assert trained(CONFIG)[0] == "complete", end
        assert script.requests > 1, end
        proxy.choose = lambda *_: ""
        (run_id,) = runs_of(remote).keys() - known
        check_whole(remote, run_id)
        known.add(run_id)
    return sum(count for fault, count in proxy.counts.items() if fault)


def test_faults_of_the_requests_that_create_are_repaired(
    remote: Workspace, proxy: FaultProxy
) -> None:
    creating = ("runs/create", "mlflow/logged-models", "model-versions/create")
    fail_each_request(remote, proxy, {end: [BEFORE[n], AFTER[n]] for n, end in enumerate(creating)})


@pytest.mark.chaos
def test_each_fault_of_each_request_is_repaired(remote: Workspace, proxy: FaultProxy) -> None:
    count = fail_each_request(remote, proxy, {end: [*BEFORE, *AFTER] for end in REQUESTS})
    sys.stdout.write(f"{len(REQUESTS)} kinds of requests, {count} faults: all runs whole\n")


def test_an_upload_answered_by_a_gateway_is_sent_again(
    remote: Workspace, proxy: FaultProxy
) -> None:
    """With status 200, although the server has never got the file."""
    proxy.choose = script = Script("split.json")
    script.faults = ["html"]
    outcome, run_id = trained(CONFIG)
    assert outcome == "complete" and script.requests > 1
    check_whole(remote, run_id)


@pytest.mark.chaos
def test_a_training_with_every_request_sent_twice_is_whole(
    remote: Workspace, proxy: FaultProxy
) -> None:
    proxy.choose = lambda *_: "duplicate"
    outcome, run_id = trained(CONFIG)
    proxy.choose = lambda *_: ""
    assert outcome == "complete"
    assert runs_of(remote) == {run_id: "FINISHED"}
    check_whole(remote, run_id)
