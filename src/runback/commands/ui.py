"""`runback ui`: the link to MLflow's UI on our view, and a UI for a local store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, NoReturn

from runback.errors import RunNotFoundError, TrackingError, UsageError
from runback.tracking.connection import connect, describe_error, public_uri
from runback.tracking.find_run import find_run
from runback.tracking.links import experiment_link, is_server, is_store, run_link
from runback.tracking.views import write_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST = "127.0.0.1"
DEFAULT_EXPERIMENT = "0"
START_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class UiLink:
    """A link to MLflow's UI.

    Attributes:
        is_served: whether a tracking server serves it; else `runback ui` does, until it is stopped.
    """

    url: str
    is_served: bool

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def ui(run: str = "", port: int = 5000) -> UiLink:
    """The link to a run, or to the experiment of the newest run in our view, which is written.

    Args:
        run: RUN in any of its forms; empty for the experiment.
        port: on which the command `runback ui` serves the UI of a local store.

    Raises:
        UsageError: the tracking URI has no UI that can be linked to, or an invalid port.
        RunNotFoundError: no run matches, or more than one.
        TrackingError: the server is unreachable.
    """
    if not 0 < port < 65_536:
        raise UsageError(f"--port {port}: not a port, 1 to 65535")
    client = connect()
    uri = str(client.tracking_uri)
    if not is_server(uri) and not is_store(uri):
        raise UsageError(f"MLFLOW_TRACKING_URI {public_uri(uri)!r}: its UI is on its own pages")
    run_id, experiment_id = _place(client, run)
    with contextlib.suppress(Exception):  # the link opens without the view, too
        write_view(client, experiment_id)
    server = public_uri(uri) if is_server(uri) else f"http://{HOST}:{port}"
    if run:
        return UiLink(run_link(server, experiment_id, run_id), is_server(uri))
    return UiLink(experiment_link(server, experiment_id), is_server(uri))


def open_browser(url: str) -> None:
    """Opens a link where there is a graphical browser; one in the terminal would hide our output."""
    shown = (
        sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if shown or os.environ.get("BROWSER"):
        webbrowser.open(url)


@contextlib.contextmanager
def serving(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's UI of the local store, on loopback; stopped at the end of the block, also by SIGTERM.

    Raises:
        UsageError: the port is in use.
        TrackingError: the server has exited, or does not answer in time.
    """
    _require_free(port)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryFile() as log:
            process = _started(port, log)
            try:
                _wait_for(process, port, log)
                yield process
            finally:
                _stop(process)
    finally:
        signal.signal(signal.SIGTERM, before)


def _place(client: MlflowClient, run: str) -> tuple[str, str]:
    """The IDs of a run and of its experiment; without RUN, those of the newest run."""
    try:
        record = find_run(client, run or "latest")
    except RunNotFoundError:
        if run:
            raise
        return "", DEFAULT_EXPERIMENT
    return record.run_id, record.experiment_id


def _require_free(port: int) -> None:
    """Checks that nothing listens on a port.

    Raises:
        UsageError: something does.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError as error:
        raise UsageError(
            f"--port {port}: {error.strerror}; a UI may run there already, or choose another port"
        ) from None


def _started(port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts the server in a session of its own; the URI, which may have a password, is not shown."""
    uri = str(connect().tracking_uri)
    env = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    env.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # seven processes, for traces
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    return subprocess.Popen(
        [*command, "--workers", "1"], env={**env, "MLFLOW_BACKEND_STORE_URI": uri},
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def _wait_for(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    """Waits until the server answers.

    Raises:
        TrackingError: it has exited, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port):
        if process.poll() is not None:
            raise TrackingError(f"MLflow's UI has ended: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise TrackingError(f"MLflow's UI did not start within {START_SECONDS:g} s")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return describe_error(TrackingError(lines[-1])) if lines else "no reason was given"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
