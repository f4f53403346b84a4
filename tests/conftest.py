"""Shared fixtures: a new store for each test, the command line, a real tracking server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from clean_env import CleanEnvironment
from long_tests import is_long

if TYPE_CHECKING:
    from finished_runs import FinishedRuns

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
PROGRAMS = ROOT / "tests" / "programs"
SECONDS = 180.0

# An example can be slow because the machine is busy or because a library is first imported.
settings.register_profile("runback", deadline=None)
settings.load_profile("runback")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's state folder of all tests: nothing is written to the real one."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.delenv("RUNBACK_TRUST", raising=False)
        yield folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised mlflow.db: creating one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("database")
    script = "import mlflow; mlflow.MlflowClient().search_experiments()"
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True)
    return folder / "mlflow.db"


@dataclass
class Workspace:
    """A folder and a store for one test, and the command line that uses them.

    Attributes:
        folder: the working directory of every command.
        uri: the tracking URI.
        env: the environment of every command.
    """

    folder: Path
    uri: str
    env: dict[str, str] = field(default_factory=dict)

    def runback(
        self, *arguments: str, timeout: float = SECONDS, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python -m runback` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "runback", *arguments],
            cwd=self.folder, env={**self.env, **env}, text=True, capture_output=True, timeout=timeout,
        )  # fmt: skip

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Starts `python -m runback`; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "runback", *arguments],
            cwd=self.folder, env={**self.env, **env}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def train(self, *arguments: str, **env: str) -> str:
        """Trains for 20 epochs on `non_linear.csv`, with further options, and returns the run ID."""
        quick = (
            "train",
            "--data",
            str(DATA / "non_linear.csv"),
            "--epochs",
            "20",
            "--checkpoint-every",
            "10",
        )
        done = self.runback(*quick, *arguments, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def client(self):
        """An MlflowClient of the store."""
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def home(self, run_id: str) -> Path:
        """The run's local folder."""
        return self.folder / ".runback" / run_id


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the thread count of torch, which `prepare` sets for the whole process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """A workspace on a SQLite store; the test process uses the same store and home."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    own = {"MLFLOW_TRACKING_URI": uri, "RUNBACK_HOME": str(tmp_path / ".runback")}
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield Workspace(tmp_path, uri, dict(os.environ))
    if mlflow := sys.modules.get("mlflow"):  # `sync` sets the URI for the whole process
        mlflow.set_tracking_uri(None)


# Seven processes of MLflow's for jobs on traces and prompts, which start with each server.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server:
    """A real `mlflow server` on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1",
        ]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, **NO_JOBS},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    """A running server with an empty store; the `workspace` fixture is not connected to it."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "server.db")
    running = Server(folder)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def remote(workspace: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose store is the real server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    return Workspace(
        workspace.folder, server.uri, {**workspace.env, "MLFLOW_TRACKING_URI": server.uri}
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that `make test` leaves to `make chaos`."""
    for item in items:
        if is_long(item.name):
            item.add_marker(pytest.mark.long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counts of the inputs that `tests/fuzz` has tried."""
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing is not None and fuzzing.COUNTS:
        terminalreporter.section("fuzzed inputs")
        for line in fuzzing.table():
            terminalreporter.write_line(line)


def wait_until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    """Polls until `what()` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def session_finished_runs(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> FinishedRuns:
    """Finished runs, trained once for all tests."""
    from finished_runs import make_finished_runs

    return make_finished_runs(tmp_path_factory.mktemp("finished_runs"), empty_database)


@pytest.fixture
def finished_runs(
    session_finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FinishedRuns:
    """Finished runs for tests that only read them; the test runs in another folder."""
    env = session_finished_runs.workspace.env
    for name in ("MLFLOW_TRACKING_URI", "RUNBACK_HOME", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):
        monkeypatch.setenv(name, env[name])
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return session_finished_runs


@pytest.fixture(scope="session")
def clean_env(tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """A virtual environment with every package except runback."""
    environment = CleanEnvironment(tmp_path_factory.mktemp("clean_env"))
    environment.require_no_runback()
    return environment
