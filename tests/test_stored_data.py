"""A table that is kept with its run: the ID is enough where the file is not."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import runback
from conftest import DATA, Workspace
from runback.commands import stored_data
from runback.config import TrainConfig
from runback.data.readers import fingerprint
from runback.errors import ConfigError, DataError
from runback.training.setup import prepare


def stored(workspace: Workspace, run_id: str) -> set[str]:
    return {file.path for file in workspace.client.list_artifacts(run_id, "data")}


def quick(data: Path | str, **options: object) -> str:
    return runback.train(str(data), model="linear", epochs=3, **options).run_id  # type: ignore[arg-type]


@pytest.fixture
def table(workspace: Workspace) -> Path:
    return Path(shutil.copyfile(DATA / "diabetes.csv", workspace.folder / "diabetes.csv"))


def test_a_run_needs_no_file_on_another_machine(workspace: Workspace, table: Path) -> None:
    run_id = quick(table)
    assert stored(workspace, run_id) == {"data/diabetes.csv.gz"}
    scores = workspace.client.get_run(run_id).data.metrics
    table.unlink()
    shutil.rmtree(workspace.folder / ".runback")
    assert runback.evaluate(run_id).scores["rmse"] == scores["test_rmse"]
    assert runback.resume(run_id, epochs=4).delivered
    assert {v.name for v in workspace.client.search_model_versions()} == {"diabetes"}
    copy = workspace.home(run_id) / "data" / "diabetes.csv"
    assert copy.read_bytes() == (DATA / "diabetes.csv").read_bytes()


def test_promote_and_reproduce_need_no_file_either(workspace: Workspace, table: Path) -> None:
    run_id = quick(table)
    table.unlink()
    shutil.rmtree(workspace.folder / ".runback")
    assert runback.promote(run_id).moved
    assert runback.reproduce(run_id).equal


def kept(data: Path, folder: Path, **options: Any) -> Path | None:
    config = TrainConfig.from_mapping({"data": str(data), "model": "linear", **options})
    return stored_data.write_copy(prepare(config), folder)


def test_a_compressed_table_and_parquet_are_kept_as_they_are(tmp_path: Path) -> None:
    pd.read_csv(DATA / "diabetes.csv").to_parquet(tmp_path / "table.parquet")
    with gzip.open(tmp_path / "table.csv.gz", "wb") as file:
        file.write((DATA / "diabetes.csv").read_bytes())
    for name in ("table.parquet", "table.csv.gz"):
        copy = kept(tmp_path / name, tmp_path / "run")
        assert copy == tmp_path / "run" / "data" / name
        assert copy.read_bytes() == (tmp_path / name).read_bytes()
        digest = fingerprint(copy)
        found = stored_data.stored_table(f"/gone/{name}", digest, (tmp_path / "run").joinpath)
        assert found == copy


def test_large_tables_and_those_that_may_not_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = DATA / "diabetes.csv"
    assert kept(table, tmp_path, store_data="false") is None
    for limit in ("MAX_COPY", "MAX_FILE"):
        with monkeypatch.context() as patch:
            patch.setattr(stored_data, limit, 100)
            assert kept(table, tmp_path) is None
            assert kept(table, tmp_path / "asked", store_data="true") is not None
    assert not list(tmp_path.glob("data/*"))


def test_a_table_without_a_copy_is_named(workspace: Workspace, table: Path) -> None:
    run_id = quick(table, store_data="false")
    table.unlink()
    with pytest.raises(
        DataError, match="does not exist, and no copy is kept with the run; restore"
    ):
        runback.evaluate(run_id)


def test_a_damaged_copy_is_refused(workspace: Workspace, table: Path) -> None:
    run_id = quick(table)
    text = table.read_text()
    table.unlink()
    copy = workspace.home(run_id) / "data" / "diabetes.csv.gz"
    with gzip.open(copy, "wt") as file:
        file.write(text.replace("1", "2", 1))
    with pytest.raises(
        DataError, match="the copy of the run's table is damaged: its SHA-256 is not"
    ):
        runback.evaluate(run_id)
    copy.write_bytes(b"no gzip")
    with pytest.raises(
        DataError, match=r"diabetes\.csv\.gz: the copy of the run's table is damaged"
    ):
        runback.evaluate(run_id)


def test_what_cannot_be_stored_is_refused_with_true(tmp_path: Path) -> None:
    odd = Path(shutil.copyfile(DATA / "diabetes.csv", tmp_path / "100%.csv"))
    assert kept(odd, tmp_path / "run") is None
    config = TrainConfig(data=str(odd), model="linear", store_data="true", register="odd")
    with pytest.raises(ConfigError, match=r"option store_data: '100%\.csv' cannot be stored"):
        stored_data.check_storable(config, prepare(config))
    with pytest.raises(ConfigError, match="option store_data: a DataFrame is kept with its run"):
        runback.train(pd.read_csv(odd), store_data="false")
