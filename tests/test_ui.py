"""What MLflow's UI is given: our view and note of each experiment, links, and a server."""

from __future__ import annotations

import base64
import json
import signal
import socket
import time
import urllib.request
import zlib

import pytest

import runback
from conftest import DATA, Workspace
from runback.errors import UsageError
from runback.tracking import tags
from runback.tracking.links import experiment_link, run_link, seen
from runback.tracking.notes import signed
from runback.tracking.views import NOTE, write_view

TRAIN = ("train", "--data", str(DATA / "non_linear.csv"), "--epochs", "20")
VIEW_LINK = "?workflowType=machine_learning&viewStateShareKey=runback&compareRunsMode=CHART"


def experiment_tags(workspace: Workspace) -> dict[str, str]:
    return dict(workspace.client.get_experiment("0").tags)


def state_of(workspace: Workspace) -> dict:
    """The state of our view, unpacked as MLflow's page does."""
    stored = json.loads(experiment_tags(workspace)[tags.VIEW])
    assert stored["name"] == "runback" and abs(stored["createdAt"] / 1000 - time.time()) < 600
    method, _, packed = stored["state"].partition(";")
    assert method == "deflate" and len(stored["state"]) < 5000
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_training_writes_the_view_and_says_where(workspace: Workspace) -> None:
    done = workspace.runback(*TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"runback: see it with: runback ui {done.stdout}") == 2
    state = state_of(workspace)
    for column in ("metrics.`best_val_cost`", "metrics.`test_rmse`", "params.`lr`"):
        assert column in state["selectedColumns"]
    line, table, *bars = [chart for chart in state["compareRunCharts"] if not chart["deleted"]]
    assert (line["type"], line["scaleType"]) == ("LINE", "log")
    assert line["selectedMetricKeys"] == ["cost", "val_cost"]
    assert (table["type"], table["compareGroups"]) == (
        "DIFFERENCE",
        ["Model metrics", "Parameters"],
    )
    assert {"best_val_cost", "test_rmse", "test_r2"} <= {bar["metricKey"] for bar in bars}
    assert {bar["type"] for bar in bars} == {"BAR"}
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    assert experiment_tags(workspace)[tags.NOTE] == signed(NOTE)


def test_a_view_is_written_again_only_if_it_changes(workspace: Workspace) -> None:
    client = workspace.client
    write_view(client, "0")
    first = experiment_tags(workspace)
    write_view(client, "0")
    assert experiment_tags(workspace) == first
    run_id = client.create_run("0", tags={tags.VERSION: "0"}).info.run_id
    client.log_metric(run_id, "test_score", 1.0)
    write_view(client, "0")
    assert "metrics.`test_score`" in state_of(workspace)["selectedColumns"]
    client.set_experiment_tag("0", tags.VIEW, "[damaged")
    write_view(client, "0")
    assert "metrics.`test_score`" in state_of(workspace)["selectedColumns"]


def test_views_and_notes_of_users_are_kept(workspace: Workspace) -> None:
    client, mine = workspace.client, {"mlflow.sharedViewState.mine": "x", tags.NOTE: "my note"}
    for key, value in mine.items():
        client.set_experiment_tag("0", key, value)
    write_view(client, "0")
    assert mine.items() <= experiment_tags(workspace).items()
    client.set_experiment_tag("0", tags.NOTE, "")
    write_view(client, "0")
    assert experiment_tags(workspace)[tags.NOTE] == signed(NOTE)
    client.set_experiment_tag("0", tags.NOTE, "Edited. " + signed(NOTE))
    write_view(client, "0")
    assert experiment_tags(workspace)[tags.NOTE] == "Edited. " + signed(NOTE)


def test_links_of_a_server_open_on_our_view(remote: Workspace) -> None:
    done = remote.runback(*TRAIN)
    assert done.returncode == 0, done.stderr
    link, run_id = f"{remote.uri}/#/experiments/0/runs{VIEW_LINK}", done.stdout.strip()
    assert done.stderr.count(f"runback: see it at {link}\n") == 2
    found = runback.ui()
    assert (found.url, found.is_served) == (link, True)
    page = remote.runback("ui", run_id[:8], "--no-browser")
    assert page.returncode == 0, page.stderr
    own = f"{remote.uri}/#/experiments/0/runs/{run_id}?workflowType=machine_learning\n"
    assert (page.stdout, page.stderr) == (own, "")


def test_a_local_store_is_served_on_loopback(workspace: Workspace) -> None:
    port = free_port()
    process = workspace.start("ui", "--port", str(port), "--no-browser")
    try:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert link == f"http://127.0.0.1:{port}/#/experiments/0/runs{VIEW_LINK}"
        with urllib.request.urlopen(link, timeout=30) as page:
            assert page.status == 200
        assert tags.VIEW in experiment_tags(workspace)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_refused(workspace: Workspace) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        done = workspace.runback("ui", "--port", str(port), "--no-browser")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"runback: --port {port}: Address already in use; ")
    with pytest.raises(UsageError, match="--port 0: not a port"):
        runback.ui(port=0)


def test_a_link_names_the_run_its_experiment_and_no_user() -> None:
    assert experiment_link("http://host:1/mlflow/", "7") == (
        f"http://host:1/mlflow/#/experiments/7/runs{VIEW_LINK}"
    )
    assert run_link("http://host", "7", "abc").startswith("http://host/#/experiments/7/runs/abc?")
    assert seen("http://host", "7", "abc") == f"at {experiment_link('http://host', '7')}"
    assert seen("http://host", "", "abc") == seen("sqlite:///x.db", "7", "abc")
    assert seen("sqlite:///x.db", "7", "abc") == "with: runback ui abc"
    assert seen("databricks", "7", "abc") == ""
