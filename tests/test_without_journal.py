"""`evaluate` and `predict` need no local journal, and do not fail beside an unusable one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from finished_runs import FinishedRuns
from runback import evaluate, predict
from runback.storage.journal import Journal, recorded_keys


@pytest.fixture
def unscored(
    finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FinishedRuns:
    """The finished runs in a store of the test's own, without test scores, and an empty home."""
    source = finished_runs.workspace.uri.removeprefix("sqlite:///")
    shutil.copyfile(source, tmp_path / "mlflow.db")
    db = sqlite3.connect(tmp_path / "mlflow.db")
    with db:
        for table in ("metrics", "latest_metrics"):
            db.execute(f"DELETE FROM {table} WHERE key LIKE 'test_%'")
    db.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("RUNBACK_HOME", str(tmp_path / "home"))
    return finished_runs


def recorded(run_id: str) -> set[str]:
    metrics = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run_id).data.metrics
    return {name for name in metrics if name.startswith("test_")}


def journal_of(tmp_path: Path, run_id: str) -> Path:
    file = tmp_path / "home" / run_id / "journal.db"
    file.parent.mkdir(parents=True)
    return file


def garbage(file: Path) -> None:
    file.write_bytes(b"garbage" * 1000)


def truncated(file: Path) -> None:
    journal = Journal(file)
    journal.record([("cost", 1.0)], 1)
    journal.close()
    file.write_bytes(file.read_bytes()[:5000])


def empty(file: Path) -> None:
    file.touch()


def folder(file: Path) -> None:
    file.mkdir()


def dangling(file: Path) -> None:
    file.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [garbage, truncated, empty, folder, dangling])
def test_an_unusable_journal_is_said_and_changes_no_score(
    unscored: FinishedRuns,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    run_id = unscored.ids["strong"]
    damage(journal_of(tmp_path, run_id))
    found = evaluate(run_id)
    assert found.rows == 20 and found.scores["rmse"] > 0
    warning = capsys.readouterr().err
    assert warning.startswith(
        f"runback: warning: the scores are not recorded in run {run_id}: {tmp_path}/home/"
    )
    assert warning.count("\n") == 1
    assert recorded(run_id) == set()
    assert len(predict(run_id, pd.DataFrame({"x": [1.0]}))) == 1


def test_without_a_journal_the_scores_are_recorded(unscored: FinishedRuns, tmp_path: Path) -> None:
    run_id = unscored.ids["strong"]
    (tmp_path / "home").write_text("a file in the place of the folder")
    scores = evaluate(run_id).scores
    assert recorded(run_id) == {f"test_{name}" for name in scores}


def test_undelivered_scores_are_not_recorded_twice(unscored: FinishedRuns, tmp_path: Path) -> None:
    """The journal is read without a change in its folder, which can be read-only."""
    run_id = unscored.ids["weak"]
    file = journal_of(tmp_path, run_id)
    journal = Journal(file)
    journal.record([("test_cost", 1.0), ("test_mae", 1.0)], 5)
    journal.close()
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    assert evaluate(run_id).epoch == 5
    assert recorded(run_id) == {"test_rmse", "test_r2"}
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_an_open_journal_is_read_with_its_latest_points(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", tidy=False)
    journal.record([("test_cost", 1.0)], 3)
    journal.flush()
    assert recorded_keys(tmp_path / "journal.db", 3) == {"test_cost"}
    assert recorded_keys(tmp_path / "journal.db", 4) == set()
    journal.close()


def test_published_scores_need_no_journal(finished_runs: FinishedRuns, tmp_path: Path) -> None:
    os.environ["RUNBACK_HOME"] = str(tmp_path / "home")  # restored by the fixture
    garbage(journal_of(tmp_path, finished_runs.ids["strong"]))
    assert evaluate(finished_runs.ids["strong"]).rows == 20
