"""Every file of a model is verified wherever the model is read, and before it is uploaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clean_env import CleanEnvironment
from conftest import PROGRAMS
from finished_runs import FinishedRuns
from runback import RunbackError, evaluate, export, load_model, predict, promote
from runback.errors import CheckpointError
from runback.model.digests import MANIFEST, folder_of, verify_digests, write_digests
from runback.model.serving import _load_pyfunc
from runback.tracking import registry, tags

FILES = ["weights.pt", "spec.json", "source/net.py", "source/deep/parts.py"]
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(name.encode() * 3)
    write_digests(tmp_path / "m")
    return tmp_path / "m"


def damaged(content: bytes, position: float, bit: int, cut: bool) -> bytes:
    """The content with one bit flipped, or without its end."""
    at = min(int(position * len(content)), len(content) - 1)
    return (
        content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    )


DAMAGE = {
    "position": st.floats(0, 1, exclude_max=True),
    "bit": st.integers(0, 7),
    "cut": st.booleans(),
}


def test_an_unchanged_folder_passes(folder: Path) -> None:
    digest = write_digests(folder)
    verify_digests(folder, "model", digest)
    assert set(json.loads((folder / MANIFEST).read_text())["sha256"]) == set(FILES)


@many
@given(name=st.sampled_from([*FILES, MANIFEST]), **DAMAGE)
def test_any_damaged_file_is_refused_by_name(
    folder: Path, name: str, position: float, bit: int, cut: bool
) -> None:
    good, digest = (folder / name).read_bytes(), write_digests(folder)
    (folder / name).write_bytes(damaged(good, position, bit, cut))
    try:
        with pytest.raises(CheckpointError) as caught:
            verify_digests(folder, "the model", digest)
    finally:
        (folder / name).write_bytes(good)
    text = str(caught.value)
    assert text.startswith("the model: ") and name in text and "\n" not in text


def without(folder: Path) -> None:
    (folder / FILES[0]).unlink()


def with_source(folder: Path) -> None:
    (folder / "source" / "torch.py").write_text("")


def with_compiled_source(folder: Path) -> None:
    (folder / "source" / "__pycache__").mkdir()
    (folder / "source" / "__pycache__" / "net.cpython-311.pyc").write_bytes(b"")


def with_link(folder: Path) -> None:
    (folder / "source" / "link").symlink_to(folder.parent)


def with_file_as_link(folder: Path) -> None:
    (folder / FILES[0]).rename(folder.parent / "elsewhere")
    (folder / FILES[0]).symlink_to(folder.parent / "elsewhere")


def with_escape(folder: Path) -> None:
    (folder.parent / "outside").write_text("")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"]["../outside"] = (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    (folder / MANIFEST).write_text(json.dumps(manifest))


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without, "the file 'weights.pt' is missing"),
        (with_source, "the file 'source/torch.py' does not belong to it"),
        (with_compiled_source, "net.cpython-311.pyc' does not belong to it"),
        (with_link, "the file 'source/link' does not belong to it"),
        (with_file_as_link, "weights.pt is damaged"),
        (with_escape, "the file '../outside' is missing"),
        (without_manifest, "digests.json is missing, so its files cannot be verified"),
    ],
)
def test_other_files_than_those_listed_are_refused(
    folder: Path, change: Callable[[Path], None], problem: str
) -> None:
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        verify_digests(folder, "model")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sha256": 3}', '{"sha256": []}', "\x00", "[" * 9999]
)
def test_a_manifest_of_another_form_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"digests\.json is damaged"):
        verify_digests(folder, "model")


def test_a_manifest_of_another_model_is_refused(folder: Path) -> None:
    """A folder that was replaced as a whole agrees with itself, and not with the store."""
    digest = write_digests(folder)
    (folder / FILES[0]).write_bytes(b"other")
    write_digests(folder)
    verify_digests(folder, "model")
    with pytest.raises(CheckpointError, match="not the one that was recorded"):
        verify_digests(folder, "model", digest)


# A registered model, on each path


@pytest.fixture
def stored(finished_runs: FinishedRuns, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A finished run of a user's module and its model in the store, restored afterwards."""
    root = root_of(finished_runs, "own")
    shutil.copytree(root, tmp_path / "kept")
    yield finished_runs.ids["own"], root
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "kept", root)


def root_of(finished_runs: FinishedRuns, name: str) -> Path:
    """The folder of a run's model in the store."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids[name]
    (model_id,) = {  # other tests copy versions, whose source is another version
        version.source.removeprefix("models:/")
        for version in client.search_model_versions(f"run_id = '{run_id}'")
        if version.source.startswith("models:/m-")
    }
    model = client.get_logged_model(model_id)
    return Path(model.artifact_location.removeprefix("file://"))


def rows() -> pd.DataFrame:
    names = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    return pd.DataFrame({name: [0.1, -0.2] for name in names})


def paths(folder: Path, run_id: str, root: Path) -> dict[str, Callable[[], Any]]:
    """Every way to read a model, by name."""
    return {
        "load_model": lambda: load_model(run_id),
        "predict": lambda: predict(run_id, rows()),
        "evaluate": lambda: evaluate(run_id),
        "promote": lambda: promote(run_id, "damaged", force=True),
        "export": lambda: export(run_id, "state_dict", str(folder / "exported.pt")),
        "pyfunc": lambda: _load_pyfunc(str(root / "data" / "model")),
    }


def features_of(root: Path) -> list[str]:
    return list(json.loads((root / "data" / "model" / "model.json").read_text())["features"])


@few
@given(data=st.data(), **DAMAGE)
def test_a_damaged_model_is_refused_on_each_path(
    stored: tuple[str, Path],
    finished_runs: FinishedRuns,
    tmp_path: Path,
    data: st.DataObject,
    position: float,
    bit: int,
    cut: bool,
) -> None:
    run_id, root = stored
    folder = root / "data" / "model"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    assert {file.name for file in files} == {
        "model_state_dict.pt", "model.json", "example.json", "digests.json", "nets.py", "layers.py",
    }  # fmt: skip
    file = data.draw(st.sampled_from(files))
    good = file.read_bytes()
    file.write_bytes(damaged(good, position, bit, cut))
    try:
        for name, read in paths(tmp_path, run_id, root).items():
            if name == "pyfunc" and file.name == MANIFEST:  # what it lists may still be equal
                continue
            with pytest.raises(CheckpointError) as caught:
                read()
            assert file.name in str(caught.value) and caught.value.exit_code == 1, name
    finally:
        file.write_bytes(good)
    aliases = finished_runs.workspace.client.get_registered_model("diabetes").aliases
    assert "damaged" not in aliases
    assert not (tmp_path / "exported.pt").exists()


def test_a_flipped_weight_is_never_a_prediction(
    stored: tuple[str, Path], finished_runs: FinishedRuns
) -> None:
    """The command exits with 1 and one sentence."""
    run_id, root = stored
    weights = root / "data" / "model" / "model_state_dict.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    rows().to_csv("in.csv", index=False)
    done = finished_runs.workspace.runback(
        "predict", run_id, "--data", str(Path("in.csv").absolute())
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "model_state_dict.pt is damaged" in done.stderr


def test_a_model_without_its_tag_is_refused(
    stored: tuple[str, Path], finished_runs: FinishedRuns
) -> None:
    run_id, _ = stored
    client = finished_runs.workspace.client
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    model = client.get_logged_model(version.source.rpartition("/")[2])
    client.delete_logged_model_tag(model.model_id, tags.MODEL_SHA256)
    try:
        with pytest.raises(CheckpointError, match=r"tag runback\.model_sha256 is missing"):
            load_model(run_id)
    finally:
        client.set_logged_model_tags(
            model.model_id, {tags.MODEL_SHA256: model.tags[tags.MODEL_SHA256]}
        )


def test_damaged_code_of_a_model_is_refused(stored: tuple[str, Path]) -> None:
    run_id, root = stored
    file = root / "code" / "runback" / "columns" / "number.py"
    file.write_text(file.read_text() + "#")
    with pytest.raises(CheckpointError, match=r"copy of runback: columns/number\.py is damaged"):
        load_model(run_id)


@pytest.mark.parametrize(
    "name", ["data/model/model_state_dict.pt", "code/runback/tasks/regression.py"]
)
def test_pyfunc_without_runback_refuses_damage(
    stored: tuple[str, Path],
    finished_runs: FinishedRuns,
    clean_env: CleanEnvironment,
    name: str,
) -> None:
    run_id, root = stored
    with (root / name).open("ab") as file:
        file.write(b"\n")
    program = str(PROGRAMS / "load_model_without_runback.py")
    frame = json.dumps({column: [0.5] for column in features_of(root)})
    done = clean_env.run(
        program, f"runs:/{run_id}/model", frame,
        cwd=finished_runs.workspace.folder, env=finished_runs.workspace.env,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("runback.errors.CheckpointError: ") and Path(name).name in last


@few
@given(data=st.data(), **DAMAGE)
def test_a_damaged_model_is_never_uploaded(
    stored: tuple[str, Path],
    finished_runs: FinishedRuns,
    data: st.DataObject,
    position: float,
    bit: int,
    cut: bool,
) -> None:
    run_id, _ = stored
    client = finished_runs.workspace.client
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    root = finished_runs.workspace.home(run_id) / "model"
    payload = {"sha256": version.tags[tags.MODEL_SHA256], "register": "diabetes"}
    folder = folder_of(root, payload["sha256"])
    file = data.draw(st.sampled_from(sorted(f for f in folder.rglob("*") if f.is_file())))
    good = file.read_bytes()
    file.write_bytes(damaged(good, position, bit, cut))
    try:
        with pytest.raises(CheckpointError, match=file.name):
            registry.publish(client, run_id, root, payload)
    finally:
        file.write_bytes(good)
    assert len(client.search_model_versions(f"run_id = '{run_id}'")) == 1


@few
@given(data=st.data(), **DAMAGE)
def test_damage_around_a_model_changes_no_prediction(
    stored: tuple[str, Path], data: st.DataObject, position: float, bit: int, cut: bool
) -> None:
    """MLflow's own files have no digests: they are refused, or the prediction is the same."""
    run_id, root = stored
    expected = predict(run_id, rows())
    others = [file for file in sorted(root.iterdir()) if file.is_file()]
    assert {"MLmodel", "requirements.txt"} <= {file.name for file in others}
    file = data.draw(st.sampled_from(others))
    good = file.read_bytes()
    file.write_bytes(damaged(good, position, bit, cut))
    try:
        found = predict(run_id, rows())
    except RunbackError as error:
        assert "\n" not in str(error)
    else:
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    finally:
        file.write_bytes(good)


def test_only_force_replaces_a_damaged_holder(finished_runs: FinishedRuns) -> None:
    client, ids = finished_runs.workspace.client, finished_runs.ids
    (version,) = client.search_model_versions(f"run_id = '{ids['weak']}' AND name = 'table'")
    (better,) = client.search_model_versions(f"run_id = '{ids['strong']}' AND name = 'table'")
    client.set_registered_model_alias("table", "held", version.version)
    strong = f"models:/table/{better.version}"  # other tests register the run under other names
    weights = root_of(finished_runs, "weak") / "data" / "model" / "model_state_dict.pt"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1])
    try:
        with pytest.raises(CheckpointError, match=f"{ids['weak']}: model_state_dict.pt is damaged"):
            promote(strong, "held")
        assert client.get_model_version_by_alias("table", "held").version == version.version
        assert promote(strong, "held", force=True).moved
    finally:
        weights.write_bytes(good)
