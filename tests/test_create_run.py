"""A run is created once, even if the response of the server is lost."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import Server, Workspace
from runback.commands.sync import sync
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import RunDir, pending_run_dir
from runback.tracking import run_tag, tags
from tracking_parts import (
    check_delivered,
    create_pending,
    ended,
    run_and_courier,
    start_trainer,
    status_of,
)

CREATE = "/api/2.0/mlflow/runs/create"


class Wire(ThreadingHTTPServer):
    """A loopback proxy before a real server that loses or damages responses to `runs/create`.

    Attributes:
        faults: the faults of the next responses: "lost" (the connection closes without a byte),
            "cut" (it closes in the middle), "page" (a 502 page of a gateway), "late" (lost, and the
            server gets the request afterwards), "away" (lost, and all further responses too).
        away: whether the server is unreachable.
        questions: the number of create requests.
    """

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.faults, self.away, self.questions = server, [], False, 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Wire
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = ""
        if self.path == CREATE:
            self.server.questions += 1
            fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "late":
            threading.Timer(0.7, self.answer_of_server, (body,)).start()
        elif not self.server.away:
            status, kind, answer = self.answer_of_server(body)
        self.server.away = self.server.away or fault == "away"
        if self.server.away or fault in ("lost", "late"):
            return self.hang_up()
        if fault == "page":
            status, kind, answer = 502, "text/html", b"<html>bad gateway</html>"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[:20] if fault == "cut" else answer)
        if fault == "cut":
            self.hang_up()
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def hang_up(self) -> None:
        self.close_connection = True

    def answer_of_server(self, body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind.port, timeout=60)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers["Content-Type"], reply.read()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def wire(workspace: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    proxy = Wire(server)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def runs_of(where: Workspace) -> dict[str, str]:
    """The status of each run that is not deleted, by run ID."""
    return {run.info.run_id: run.info.status for run in where.client.search_runs(["0"])}


def test_a_lost_create_response_makes_one_run(
    workspace: Workspace, server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each fault of the proxy, and with the HTTP client's own retries."""
    from mlflow import MlflowClient

    behind = Workspace(workspace.folder, server.uri)
    client, made = MlflowClient(wire.uri), []

    def open_one() -> None:
        made.append(create_pending(client))

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # as the courier has it
    for fault in ("lost", "cut", "page", "late"):
        wire.faults = [fault]
        open_one()
        assert runs_of(behind) == dict.fromkeys(made, "RUNNING"), fault
    assert wire.questions == 4

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # as a user may have it
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    wire.faults = ["lost", "page"]
    open_one()
    asked = wire.questions
    assert asked in (5, 7)  # MLflow repeats a creation itself before 3.18
    assert runs_of(behind) == dict.fromkeys(made, "RUNNING")
    open_one()
    assert wire.questions == asked + 1 and runs_of(behind) == dict.fromkeys(made, "RUNNING")


def test_training_after_a_lost_response_makes_one_run(
    workspace: Workspace, server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the server then becomes unreachable: `sync` deletes the duplicate run later."""
    behind = Workspace(workspace.folder, server.uri)
    through = Workspace(
        workspace.folder, wire.uri, {**workspace.env, "MLFLOW_TRACKING_URI": wire.uri}
    )
    home = workspace.folder / ".runback"
    wire.faults = ["lost"]
    trainer = start_trainer(through, 40, 0.0, "FINISHED")
    run_id, _ = run_and_courier(trainer)
    assert ended(trainer)[0] == 0
    assert runs_of(behind) == {run_id: "FINISHED"} and wire.questions == 1
    assert check_delivered(behind, run_id) == 80
    assert [file.name for file in home.iterdir()] == [run_id]

    wire.faults = ["away"]
    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "1")
    trainer = start_trainer(through, 40, 0.0, "FINISHED", RUNBACK_CONNECT_SECONDS="1")
    code, errors = ended(trainer)
    assert code == 1 and "runback sync deletes it" in errors, errors
    assert sync().waiting == 1
    assert sorted(runs_of(behind).values()) == ["FINISHED", "RUNNING"]
    wire.away = False
    assert sync().waiting == 0
    assert runs_of(behind) == {run_id: "FINISHED"}
    assert [file.name for file in home.iterdir()] == [run_id]


def marked(mark: str) -> dict[str, str]:
    return run_tag.as_tag({run_tag.MARK: mark})


def abandoned(workspace: Workspace, experiment: str = "0") -> tuple[RunDir, str]:
    """What a courier leaves that is killed when the server has created its run."""
    pending = pending_run_dir()
    with contextlib.closing(Journal(pending.journal)) as journal:
        journal.set_facts({"tracking_uri": workspace.uri, "experiment_id": experiment})
    run = workspace.client.create_run("0", tags=marked(pending.mark))
    return pending, run.info.run_id


def test_sync_deletes_a_run_that_no_training_got(workspace: Workspace) -> None:
    pending, lost = abandoned(workspace)
    other = workspace.client.create_run("0", tags=marked("another")).info.run_id
    assert sync().waiting == 0
    assert runs_of(workspace) == {other: "RUNNING"} and not pending.path.exists()
    assert workspace.client.get_run(lost).info.status == "FAILED"


@pytest.mark.parametrize("name", ["lock", "courier_lock"])
def test_sync_leaves_a_run_that_is_being_created(workspace: Workspace, name: str) -> None:
    pending, run_id = abandoned(workspace)
    with FileLock(getattr(pending, name)).acquire("it"):
        assert sync().waiting == 0
        assert status_of(workspace, run_id) == "RUNNING" and pending.path.exists()


def test_sync_leaves_a_run_that_is_in_use(workspace: Workspace) -> None:
    pending, run_id = abandoned(workspace)
    workspace.client.set_tag(run_id, tags.VERSION, "1")
    assert sync().waiting == 0
    assert status_of(workspace, run_id) == "RUNNING" and not pending.path.exists()


def test_sync_waits_for_a_run_that_may_yet_appear(workspace: Workspace) -> None:
    pending, _ = abandoned(workspace, experiment="77")
    assert sync().waiting == 0 and pending.path.exists()
    os.utime(pending.journal, (0, 0))
    assert sync().waiting == 0 and not pending.path.exists()


def test_sync_removes_a_directory_without_a_run(workspace: Workspace) -> None:
    """A training that was killed before it asked for its run."""
    pending = pending_run_dir()
    Journal(pending.journal).close()
    assert sync().waiting == 0 and not pending.path.exists()
