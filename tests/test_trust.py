"""Code that a store names runs only if the user knows it: trained with it here, or said so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from conftest import DATA, PROGRAMS, Workspace
from finished_runs import FinishedRuns
from runback import (
    TrainConfig,
    evaluate,
    export,
    load_model,
    predict,
    promote,
    reproduce,
    resume,
    train,
)
from runback.commands.recorded import with_data
from runback.errors import ConfigError, ModelError, RunbackError, TrustError
from runback.storage import trust
from runback.storage.trust import is_known, remember, require_trust, source_in
from runback.tracking import tags
from runback.tracking.record import Tags
from tracking_parts import record

EVIL = """
from pathlib import Path
Path({marker!r}).touch()
import torch
from torch.utils.data import Dataset
class Net(torch.nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.layer = torch.nn.Linear(n, m)
    def forward(self, x):
        return self.layer(x)
class Data(Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, i):
        return [float(i)], float(i)
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory that touches `ran` when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "evil.py"


@pytest.fixture
def unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder: nothing was trained or trusted here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other-state"))
    return tmp_path / "other-state"


def ten_columns() -> pd.DataFrame:
    return pd.read_csv("table.csv") if Path("table.csv").exists() else pd.DataFrame({"x": [1.0]})


COMMANDS: dict[str, Callable[[str], Any]] = {
    "load_model": load_model,
    "evaluate": evaluate,
    "predict": lambda run: predict(run, ten_columns()),
    "export": lambda run: export(run, "state_dict", "out.pt"),
    "promote": promote,
    "reproduce": reproduce,
    "resume": lambda run: resume(run, epochs=9),
}


def outcome(command: str, run: str) -> str:
    """The error of a command, one line; empty if there is none."""
    try:
        COMMANDS[command](run)
    except RunbackError as error:
        assert "\n" not in str(error)
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture
def tagged(finished_runs: FinishedRuns) -> Iterator[Callable[..., str]]:
    """Sets tags on a finished run of a built-in model; they are restored afterwards."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    before = dict(client.get_run(run_id).data.tags)

    def set_tags(**options: str) -> str:
        facts = json.loads(before[tags.RUN])
        config, path = {**facts["config"], **options}, options.get("data", facts["data_path"])
        record(client, run_id, config=config, data_path=path, changed=options)
        return run_id

    yield set_tags
    for name in client.get_run(run_id).data.tags.keys() - before.keys():
        client.delete_tag(run_id, name)
    client.set_tag(run_id, tags.RUN, before[tags.RUN])


@pytest.mark.parametrize("command", ["evaluate", "promote", "reproduce", "resume"])
def test_a_class_in_a_data_tag_is_not_imported(
    tagged: Callable[..., str], evil: Path, command: str
) -> None:
    found = outcome(command, tagged(data=f"{evil}:Data"))
    assert found.startswith("TrustError: "), found
    assert f"{evil}:Data" in found and "--data" in found
    assert not (evil.parent / "ran").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_class_in_a_model_tag_is_not_imported(
    tagged: Callable[..., str], evil: Path, command: str
) -> None:
    found = outcome(command, tagged(model=f"{evil}:Net"))
    assert bool(found) == (command in ("reproduce", "resume")), found
    assert not (evil.parent / "ran").exists()


@pytest.fixture
def planted(finished_runs: FinishedRuns, evil: Path) -> Iterator[str]:
    """A run of a built-in model whose stored model folder has been replaced by one with code."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    (output,) = client.get_run(run_id).outputs.model_outputs
    location = client.get_logged_model(output.model_id).artifact_location
    folder = Path(location.removeprefix("file://")) / "data" / "model"
    shutil.copytree(folder, evil.parent / "kept")
    spec = json.loads((folder / "model.json").read_text())
    spec |= {"model": "evil.py:Net", "own_module": "evil"}
    (folder / "model.json").write_text(json.dumps(spec))
    (folder / "source").mkdir()
    shutil.copyfile(evil, folder / "source" / "evil.py")
    yield run_id
    shutil.rmtree(folder)
    shutil.copytree(evil.parent / "kept", folder)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "resume"])
def test_code_in_a_hostile_model_folder_is_not_imported(
    planted: str, evil: Path, command: str
) -> None:
    assert outcome(command, planted) != ""
    assert not (evil.parent / "ran").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_users_own_source_needs_consent_elsewhere(
    finished_runs: FinishedRuns, unknown: Path, command: str
) -> None:
    """Also if an earlier, refused resume has left the source in the run's local folder."""
    found = outcome(command, finished_runs.ids["own"])
    assert found.startswith("TrustError: "), found
    for part in ("layers.py, nets.py", "SHA-256 ", "--trust true", "RUNBACK_TRUST=1"):
        assert part in found
    assert not unknown.exists()


def test_source_trained_with_here_needs_no_consent(finished_runs: FinishedRuns) -> None:
    assert load_model(finished_runs.ids["own"])(torch.zeros(1, 10)).shape == (1, 1)


def test_consent_is_given_once_for_the_same_source(
    finished_runs: FinishedRuns, unknown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(finished_runs.ids["own"], trust=True)
    assert "trusted from now on" in capsys.readouterr().err
    (file,) = (unknown / "runback" / "sources").iterdir()
    assert json.loads(file.read_text())["how"] == "trusted"
    load_model(finished_runs.ids["own"])
    assert capsys.readouterr().err == ""


def test_consent_by_the_environment_is_accepted(
    finished_runs: FinishedRuns, unknown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBACK_TRUST", "1")
    assert evaluate(finished_runs.ids["own"]).rows > 0


def test_an_invalid_trust_variable_is_refused(
    finished_runs: FinishedRuns, unknown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBACK_TRUST", "yes")
    with pytest.raises(ConfigError, match="RUNBACK_TRUST 'yes' is neither 1 nor 0"):
        load_model(finished_runs.ids["own"])


@pytest.mark.parametrize("command", ["evaluate", "predict", "promote", "export", "reproduce"])
def test_the_command_line_refuses_unknown_source(
    finished_runs: FinishedRuns, unknown: Path, command: str
) -> None:
    table = str(DATA / "non_linear.csv")
    more = {"predict": ["--data", table], "export": ["--format", "pt2", "--output", "m.pt2"]}
    arguments = [command, finished_runs.ids["own"], *more.get(command, [])]
    env = {"XDG_STATE_HOME": str(unknown)}
    done = finished_runs.workspace.runback(*arguments, **env)
    assert done.returncode == 2, done.stderr
    assert "--trust true" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_trust_true_on_the_command_line_is_consent(
    finished_runs: FinishedRuns, unknown: Path
) -> None:
    env = {"XDG_STATE_HOME": str(unknown)}
    arguments = ("evaluate", finished_runs.ids["own"])
    done = finished_runs.workspace.runback(*arguments, "--trust", "true", **env)
    assert done.returncode == 0, done.stderr
    assert finished_runs.workspace.runback(*arguments, **env).returncode == 0


def test_a_dataset_of_ones_own_is_known_until_it_changes(workspace: Workspace, evil: Path) -> None:
    config = TrainConfig(data=f"{evil}:Data", model="linear", epochs=1, batch_size=4)
    run_id = train(config).run_id
    assert evaluate(run_id).rows == 2
    marker = evil.parent / "ran"
    marker.unlink()
    evil.write_text(evil.read_text() + "# changed\n")
    with pytest.raises(TrustError, match="in its present form"):
        evaluate(run_id)
    assert not marker.exists()
    assert evaluate(run_id, data=f"{evil}:Data").rows == 20
    assert resume(run_id, data=f"{evil}:Data", epochs=2).run_id == run_id
    assert evaluate(run_id).rows == 2


def test_a_model_of_torch_itself_needs_no_consent(workspace: Workspace, unknown: Path) -> None:
    shutil.copyfile(PROGRAMS.parents[1] / "data" / "non_linear.csv", "t.csv")
    config = TrainConfig(data="t.csv", model="torch.nn:Linear", epochs=1)
    run_id = train(config).run_id
    assert load_model(run_id)(torch.zeros(1, 1)).shape == (1, 1)
    assert resume(run_id, epochs=2).run_id == run_id
    assert reproduce(run_id).equal


def test_a_module_of_torch_that_is_not_loaded_is_refused() -> None:
    from runback.user_code import import_class, locate

    with pytest.raises(ModelError, match="is not a module that importing torch loads"):
        import_class(locate("torch.utils.bottleneck.__main__:Net"))


PARTS = st.sampled_from(
    ["evil", "evil.py", "./evil.py", "pkg.evil", "pkg/evil.py", "~/evil.py", "{here}/evil.py",
     "../evil.py", "evil.py/", "a\0b.py", "x" * 5000 + ".py", "~nobody/evil.py", "runback.evil", ""]
)  # fmt: skip
NAMES = st.sampled_from(["Data", "Net", "X", "", "a b", "é"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(location=PARTS, name=NAMES, in_config=st.booleans())
@example(location="evil", name="Data", in_config=True)
def test_no_reference_in_a_tag_is_imported(
    evil: Path, unknown: Path, location: str, name: str, in_config: bool
) -> None:
    package = evil.parent / "pkg"
    package.mkdir(exist_ok=True)
    for file in (package / "evil.py", package / "__init__.py"):
        shutil.copyfile(evil, file)
    reference = f"{location.format(here=evil.parent)}:{name}"
    with pytest.raises(RunbackError) as caught:
        config = TrainConfig(data=reference if in_config else "none.csv")
        with_data(config, Tags(data_path="" if in_config else reference), Path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not (evil.parent / "ran").exists()


FILES = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.(py|so|txt)", fullmatch=True),
    st.binary(max_size=30),
    min_size=1,
    max_size=4,
)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=FILES, other=FILES)
def test_a_source_is_known_only_if_all_files_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    remember(source_in(written(tmp_path / "one", one)), "trained")
    assert is_known(source_in(written(tmp_path / "copy", one)))
    assert is_known(source_in(written(tmp_path / "other", other))) == (one == other)


def test_a_link_in_stored_source_is_refused(tmp_path: Path, evil: Path) -> None:
    folder = written(tmp_path / "source", {"a.py": b""})
    (folder / "b.py").symlink_to(evil)
    with pytest.raises(TrustError, match=r"b\.py: stored source must not contain links"):
        require_trust(folder, "it", trust=True)


def test_names_of_hostile_files_are_shown_harmlessly(tmp_path: Path, unknown: Path) -> None:
    names = {f"{'x' * n}\x1b[2J\n.py": b"" for n in range(60)}
    with pytest.raises(TrustError) as caught:
        require_trust(written(tmp_path / "source", names), "it", trust=False)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800
    assert "and 55 more" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 1}', "[" * 100_000, '{"files": {}}'])
def test_a_damaged_record_of_a_source_is_ignored(tmp_path: Path, unknown: Path, text: str) -> None:
    source = source_in(written(tmp_path / "source", {"a.py": b"x"}))
    remember(source, "trained")
    (file,) = (unknown / "runback" / "sources").iterdir()
    file.write_text(text)
    assert not is_known(source)


def test_a_state_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember(source_in(written(tmp_path / "source", {"a.py": b"x"})), "trained")
    assert "cannot be recorded as known" in capsys.readouterr().err


def test_without_a_home_directory_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert not is_known(trust.Source({"a.py": "0"}))


def test_a_relative_state_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    remember(source_in(written(tmp_path / "source", {"a.py": b"x"})), "trained")
    assert os.listdir(tmp_path / ".local/state/runback/sources")


class HostileArtifacts(BaseHTTPRequestHandler):
    """A server whose artifact listings contain a path outside the run's folder."""

    path_in_listing = ""

    def do_GET(self) -> None:
        listing = {"files": [{"path": self.path_in_listing, "is_dir": False, "file_size": 4}]}
        is_listing = "path=" in self.path
        content = json.dumps(listing).encode() if is_listing else b"evil"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "%2e%2e/evil", "..%2fevil"])
def test_a_hostile_artifact_path_stays_in_the_folder(tmp_path: Path, path: str) -> None:
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    handler = type("Handler", (HostileArtifacts,), {"path_in_listing": path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts"
        target = tmp_path / "deep" / "target"
        target.mkdir(parents=True)
        with contextlib.suppress(MlflowException):
            HttpArtifactRepository(uri).download_artifacts("source", str(target))
        server.shutdown()
    written = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert all(file.is_relative_to(target) for file in written), written
