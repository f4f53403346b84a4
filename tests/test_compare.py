"""`runback compare`: what differs between runs, which of them is better, and what cannot be said."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import runback
from conftest import Workspace
from finished_runs import FinishedRuns
from runback.cli import main
from runback.commands.compared_html import as_html
from runback.commands.compared_text import as_text
from runback.commands.rank import MAX_ROWS, Interval, Predicted, interval
from runback.config import TrainConfig
from runback.errors import DataError, RunNotFoundError, UsageError
from runback.storage.lease import lease
from runback.tasks import NumberTarget, by_name
from runback.tracking import run_tag, tags
from runback.training.scoring import Scoring


@dataclass(frozen=True)
class Classes:
    """A target column of classes."""

    name: str
    classes: tuple[str, ...]
    counts: tuple[int, ...] = (1, 1, 1)


def add_run(workspace: Workspace, name: str, status: str, rate: float, **params: str) -> str:
    """A run as a training leaves it, without the training and without artifacts."""
    config = TrainConfig(data="houses.csv", lr=rate)
    facts = {"config": config.as_params(), "data_path": "/d/houses.csv"}
    stored = {tags.VERSION: "0", **run_tag.as_tag(facts)}
    client = workspace.client
    run_id = str(client.create_run("0", tags=stored, run_name=name).info.run_id)
    for key, value in params.items():
        client.log_param(run_id, key, value)
    client.log_metric(run_id, "cost", 3.0, step=1)
    if status == "RUNNING":
        client.set_tag(run_id, tags.LEASE, lease(1))
    else:
        client.set_terminated(run_id, status)
    return run_id


def predicted(errors: list[float]) -> Predicted:
    """A model with these errors."""
    output = torch.tensor(errors, dtype=torch.float64).reshape(-1, 1)
    task = by_name("regression")
    loss, targets = torch.nn.functional.mse_loss, [NumberTarget("y")]
    return Predicted(
        "a" * 32, "t.csv", Scoring(task, targets, loss), output, torch.zeros_like(output)
    )


def test_runs_on_the_same_rows_are_ranked(finished_runs: FinishedRuns) -> None:
    weak, strong = finished_runs.ids["weak"], finished_runs.ids["strong"]
    found = runback.compare(weak, strong, weak)
    assert [run.run_id for run in found.runs] == [weak, strong]
    assert found.options == {"epochs": ("5", "60"), "checkpoint_every": ("1000", "30")}
    assert (found.data, found.code, found.versions) == ({}, {}, {})
    assert found.ranking is not None and found.not_ranked == ""
    assert (found.ranking.metric, found.ranking.rows) == ("rmse", 20)
    best, other = found.ranking.models
    scores = {run.run_id: run.scores["rmse"] for run in found.runs}
    assert (best.run_id, best.score) == (strong, pytest.approx(scores[strong], rel=1e-6))
    assert (other.run_id, other.score) == (weak, pytest.approx(scores[weak], rel=1e-6))
    assert other.difference == other.score - best.score
    assert other.low is not None and other.high is not None
    assert other.low < 0 < other.difference < other.high and not other.is_clear
    text = as_text(found)
    assert "epochs            5 " in text and "val_cost:" in text
    assert "rmse on the same 20 rows; difference from the best" in text
    assert "): no clear difference\n" in text


def test_models_are_ranked_on_a_table(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    ids, folder = finished_runs.ids, finished_runs.workspace.folder
    table = str(folder / "table.csv")
    found = runback.compare(ids["weak"], ids["strong"], data=table)
    assert found.ranking is not None
    assert (found.ranking.rows, found.ranking.data) == (200, table)
    low, high = found.ranking.models[1].low, found.ranking.models[1].high
    assert low is not None and high is not None and 0 < low < high
    assert found.ranking.models[1].is_clear and "no clear difference" not in as_text(found)
    both = tmp_path / "both.csv"  # the columns of two tables
    pd.read_csv(folder / "diabetes.csv").assign(x=1.0, y=2.0).to_csv(both, index=False)
    with pytest.raises(UsageError, match="predict different targets or classes: regression of y, "):
        runback.compare(ids["weak"], ids["own"], data=str(both))
    with pytest.raises(DataError, match="no column 'y'"):
        runback.compare(ids["weak"], ids["own"], data=str(folder / "diabetes.csv"))


def test_runs_with_other_test_rows_are_not_ranked(finished_runs: FinishedRuns) -> None:
    found = runback.compare(finished_runs.ids["weak"], finished_runs.ids["own"])
    assert found.ranking is None
    assert found.not_ranked.startswith("the test rows of the runs differ")
    assert found.data["table"][0].endswith("table.csv")
    assert found.data["table"][1].endswith("diabetes.csv")
    assert found.data.keys() == {"table", "content", "rows", "test rows"}
    assert found.code.keys() == {"module"}
    assert "not ranked: the test rows of the runs differ" in as_text(found)


def test_failed_and_running_runs_are_compared(workspace: Workspace) -> None:
    ids = [
        add_run(workspace, "the failed one", "FAILED", 0.1),
        add_run(workspace, "the running one", "RUNNING", 0.2),
        workspace.train("--name", "the finished one"),
    ]
    done = workspace.runback("compare", *ids)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert lines["status"].split() == ["status", "FAILED", "RUNNING", "FINISHED"]
    assert lines["data: content"].split()[2:4] == ["-", "-"]
    assert lines["lr"].split() == ["lr", "0.1", "0.2", "0.0001"]
    reason = "not ranked: fewer than two of the runs have scores of test rows"
    assert reason in done.stdout
    as_json = workspace.runback("compare", "the failed one", ids[2][:8], "--json")
    found = json.loads(as_json.stdout)
    assert [run["run_id"] for run in found["runs"]] == [ids[0], ids[2]]
    assert found["ranking"] is None and found["options"]["lr"] == ["0.1", "0.0001"]
    quoted = workspace.runback("compare", f"{ids[0]}, {ids[1]}", "--json")  # as `mlflow run` does
    assert json.loads(quoted.stdout)["options"] == {"lr": ["0.1", "0.2"]}


def test_the_page_is_one_file_without_links(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    ids, page = finished_runs.ids, tmp_path / "compare.html"
    assert main(["compare", ids["weak"], ids["strong"], "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count("<svg") == 1
    assert text.count("<table>") == 2 and "<td>60</td>" in text
    assert "rmse on the same 20 rows" in text
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')>\s]+)""", text)
    assert links and all(link.startswith("#") for link in links)
    assert main(["compare", ids["weak"], ids["strong"], "--output", str(page)]) == 2


def test_names_are_escaped_on_the_page(workspace: Workspace) -> None:
    ids = [add_run(workspace, f"<script>{i}</script>", "FAILED", 0.1) for i in range(2)]
    text = as_html(runback.compare(*ids))
    assert "<script" not in text and "&lt;script&gt;1" in text


def test_params_of_mlflow_run_are_no_difference(workspace: Workspace) -> None:
    """`mlflow run` stores what it was given, in quotes, and params cannot be changed."""
    one = add_run(workspace, "one", "FINISHED", 0.1, lr="0.1", model_args="'{}'", seed="''")
    other = add_run(workspace, "other", "FINISHED", 0.3, lr="3e-1", model_args="{}", seed="0")
    assert runback.compare(one, other).options == {"lr": ("0.1", "0.3")}


def test_fewer_than_two_runs_are_refused(workspace: Workspace) -> None:
    run_id = add_run(workspace, "one", "FINISHED", 0.1)
    with pytest.raises(UsageError, match="give two runs or more"):
        runback.compare(run_id)
    with pytest.raises(UsageError, match=f"all of the given runs are {run_id}"):
        runback.compare(run_id, "latest")
    with pytest.raises(RunNotFoundError, match="no run"):
        runback.compare(run_id, "another one")


def test_the_interval_is_that_of_a_paired_bootstrap() -> None:
    random = np.random.default_rng(1)
    shared = random.normal(size=80)
    one, other = shared + random.normal(size=80), shared
    found = interval(predicted(list(one)), predicted(list(other)), "rmse")
    rows = random.integers(80, size=(4000, 80))
    differences = [np.sqrt(np.mean(errors[rows] ** 2, axis=1)) for errors in (one, other)]
    expected = np.quantile(differences[0] - differences[1], [0.025, 0.975])
    near = pytest.approx(tuple(expected), abs=0.1 * (expected[1] - expected[0]))
    assert (found.low, found.high) == near


def test_groups_of_many_rows_have_the_interval_of_the_rows() -> None:
    """Also of rows in the order of their errors, and quickly."""
    random = np.random.default_rng(2)
    n_rows = 20 * MAX_ROWS + 7
    shared = np.sort(random.normal(size=n_rows))
    one, other = shared + 0.3 * random.normal(size=n_rows), shared
    start = time.process_time()
    found = interval(predicted(list(one)), predicted(list(other)), "rmse")
    assert time.process_time() - start < 3  # 999 samples, and the import of scipy.stats
    sums = np.array([one**2, other**2]).T
    samples = [sums[random.integers(n_rows, size=n_rows)].mean(axis=0) for _ in range(400)]
    expected = np.quantile(np.diff(np.sqrt(samples)[:, ::-1]), [0.025, 0.975])
    near = pytest.approx(tuple(expected), abs=0.2 * (expected[1] - expected[0]))
    assert (found.low, found.high) == near


def test_equal_models_have_no_clear_difference() -> None:
    same = [0.5, -1.0, 2.0]
    for metric in ("rmse", "cost", "mae"):
        assert interval(predicted(same), predicted(same), metric) == Interval(0.0, 0.0)
    assert interval(predicted([1.0]), predicted([2.0]), "rmse") == Interval(None, None)
    undefined = predicted([float("nan"), 1.0])
    assert interval(undefined, predicted([1.0, 1.0]), "rmse") == Interval(None, None)
    assert interval(predicted(same), predicted(same), "r2") == Interval(None, None)  # y is constant


CLASSES = [Classes("a", ("x", "y", "z")), Classes("b", ("no", "yes")), Classes("c", ("no", "yes"))]


def random_rows(task: str, n_rows: int) -> Predicted:
    """Predictions of random models for random targets."""
    random = torch.Generator().manual_seed(3)
    targets = {"regression": [NumberTarget("a"), NumberTarget("b")], "binary": CLASSES[1:]}
    output = torch.randn(n_rows, 3 if task == "classification" else 2, generator=random)
    y = torch.randint(3, (n_rows, 1), generator=random)
    if task != "classification":
        y = torch.randint(2, (n_rows, 2), generator=random).float()
    kind, columns = by_name(task), targets.get(task, CLASSES[:1])
    return Predicted(
        "r", "t.csv", Scoring(kind, columns, next(iter(kind.losses.values()))), output, y
    )


@pytest.mark.parametrize("task", ["regression", "classification", "binary"])
def test_scores_of_samples_are_those_of_their_rows(task: str) -> None:
    rows = random_rows(task, 60)
    drawn = np.random.default_rng(4).integers(60, size=60)
    counts = np.bincount(drawn, minlength=60).astype(float)[None]
    chosen = torch.from_numpy(drawn)
    sample = replace(rows, output=rows.output[chosen], y=rows.y[chosen])
    other = replace(rows, output=rows.output.flip(0))
    for name in rows.task.metrics:
        resampled = rows.resampled(name)
        assert resampled is not None
        assert float(resampled.scores(counts)[0]) == pytest.approx(sample.score(name), rel=1e-5)
        ends, difference = interval(rows, other, name), rows.score(name) - other.score(name)
        assert ends.low is not None and ends.high is not None
        assert ends.low < difference < ends.high
    weighted = replace(
        rows, scoring=replace(rows.scoring, loss=lambda output, y: (output - y).sum())
    )
    assert (weighted.resampled("cost") is None) == (task == "classification")
