"""No file that runback reads can run code: every hostile pickle is refused and not executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import Workspace
from finished_runs import FinishedRuns
from runback import load_model
from runback.errors import CheckpointError, ModelError, RunbackError
from runback.model.digests import write_digests
from runback.model.spec import load_tensors
from runback.tracking import tags


class Payload:
    """Unpickling it creates a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def plain(payload: Payload) -> bytes:
    return pickle.dumps({"layer.weight": payload})


def zipped(payload: Payload, file: Path) -> bytes:
    torch.save({"layer.weight": torch.zeros(1, 2), "layer.bias": payload}, file)
    return file.read_bytes()


def hostile(folder: Path) -> tuple[list[bytes], Path]:
    """A hostile file in both formats, and the folder that unpickling one would create."""
    trace = folder / "ran"
    payload = Payload(trace)
    return [plain(payload), zipped(payload, folder / "evil.pt")], trace


def test_the_payload_runs_when_unpickled(tmp_path: Path) -> None:
    files, trace = hostile(tmp_path)
    pickle.loads(files[0])
    assert trace.is_dir()


def test_hostile_tensor_files_are_refused(tmp_path: Path) -> None:
    files, trace = hostile(tmp_path)
    for content in (*files, b"", b"PK\x03\x04", os.urandom(300)):
        (tmp_path / "model_state_dict.pt").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"model_state_dict.pt: refused as damaged or unsafe"
        ):
            load_tensors(tmp_path / "model_state_dict.pt")
        assert not trace.exists()


@pytest.fixture
def victim(finished_runs: FinishedRuns, tmp_path: Path) -> Iterator[str]:
    """A finished run that a test may damage; its files are restored afterwards."""
    run_id = finished_runs.ids["victim"]
    folders = [
        model_folder(finished_runs.workspace, run_id),
        *checkpoint_folders(finished_runs.workspace, run_id),
    ]
    for number, folder in enumerate(folders):
        shutil.copytree(folder, tmp_path / "kept" / str(number))
    yield run_id
    for number, folder in enumerate(folders):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept" / str(number), folder)
    seal(finished_runs.workspace, run_id)


def seal(workspace: Workspace, run_id: str) -> None:
    """Makes the digests of a changed model agree with it, as a hostile store can."""
    digest = write_digests(model_folder(workspace, run_id) / "data" / "model")
    workspace.client.set_logged_model_tags(model_id(workspace, run_id), {tags.MODEL_SHA256: digest})


def checkpoint_folders(workspace: Workspace, run_id: str) -> list[Path]:
    """The run's checkpoint folders: the local one and the one in the artifacts."""
    uri = workspace.client.get_run(run_id).info.artifact_uri.removeprefix("file://")
    return [workspace.home(run_id) / "checkpoints", Path(uri) / "checkpoints"]


def model_id(workspace: Workspace, run_id: str) -> str:
    versions = workspace.client.search_model_versions(f"run_id = '{run_id}'")
    version = max(versions, key=lambda found: int(found.version))
    return str(version.source.rpartition("/")[2])


def model_folder(workspace: Workspace, run_id: str) -> Path:
    model = workspace.client.get_logged_model(model_id(workspace, run_id))
    return Path(model.artifact_location.removeprefix("file://"))


def test_hostile_weights_of_a_stored_model_are_refused(
    finished_runs: FinishedRuns, victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder = model_folder(finished_runs.workspace, victim)
    with torch.no_grad():
        found = load_model(victim)(torch.tensor([[1.0], [5.0], [11.0]]))
    assert found.tolist() == finished_runs.answers["victim"]
    evil = tmp_path / "evil"
    evil.mkdir()
    files, trace = hostile(evil)
    weights = folder / "data" / "model" / "model_state_dict.pt"
    for content in files:
        weights.write_bytes(content)
        seal(finished_runs.workspace, victim)
        with pytest.raises(CheckpointError, match="refused as damaged or unsafe"):
            load_model(victim)
    assert not trace.exists()


def test_a_hostile_mlmodel_is_refused(
    finished_runs: FinishedRuns, victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder = model_folder(finished_runs.workspace, victim)
    evil = tmp_path / "evil"
    evil.mkdir()
    files, trace = hostile(evil)
    for change in MLMODELS:
        _change_mlmodel(folder, change, files[0])
        with pytest.raises(RunbackError) as caught:
            load_model(victim)
        assert "not a model written by runback" in str(caught.value) or "MLmodel" in str(
            caught.value
        )
        assert "\n" not in str(caught.value)
    assert not trace.exists()


MLMODELS: list[dict[str, Any] | str] = [
    {"loader_module": "mlflow.sklearn"},
    {"loader_module": "os"},
    {"data": "../../../../../.."},
    {"data": "/etc"},
    {"data": None},
    {"loader_module": "mlflow.pyfunc.model", "python_model": "evil.pkl"},
    "!!python/object/apply:os.mkdir ['ran']",
    "[]",
    "\x00",
]


def _change_mlmodel(folder: Path, change: dict[str, Any] | str, evil: bytes) -> None:
    """Replaces the MLmodel file; the first call keeps a copy of the good one."""
    kept = folder / "MLmodel.good"
    if not kept.exists():
        shutil.copyfile(folder / "MLmodel", kept)
    (folder / "evil.pkl").write_bytes(evil)
    if isinstance(change, str):
        (folder / "MLmodel").write_text(change)
        return
    content = yaml.safe_load(kept.read_text())
    content["flavors"]["python_function"] |= change
    (folder / "MLmodel").write_text(yaml.safe_dump(content))


def test_a_hostile_checkpoint_is_skipped_on_resume(
    finished_runs: FinishedRuns, victim: str, tmp_path: Path
) -> None:
    """Even with a matching manifest. No valid one is left, so that the resume is refused."""
    evil = tmp_path / "evil"
    evil.mkdir()
    files, trace = hostile(evil)
    here, there = checkpoint_folders(finished_runs.workspace, victim)
    for manifest, content in zip(sorted(here.glob("*.json")), files, strict=True):
        facts = json.loads(manifest.read_text())
        facts |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for folder in (here, there):
            (folder / facts["file"]).write_bytes(content)
            (folder / manifest.name).write_text(json.dumps(facts))
    done = finished_runs.workspace.runback("resume", victim, "--epochs", "8")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("warning: skipped") == 4
    assert "no valid checkpoint" in done.stderr
    assert not trace.exists()


def test_a_hostile_module_name_is_refused(finished_runs: FinishedRuns, victim: str) -> None:
    folder = model_folder(finished_runs.workspace, victim) / "data" / "model"
    spec = json.loads((folder / "model.json").read_text())
    for module in ("..", "a/../../b", "os", "subprocess"):
        tampered = {**spec, "model": "x.py:Net", "own_module": module}
        (folder / "model.json").write_text(json.dumps(tampered))
        seal(finished_runs.workspace, victim)
        with pytest.raises(ModelError):
            load_model(victim)
