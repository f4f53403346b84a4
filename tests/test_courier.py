"""The courier: delivers everything once, survives failures, and reports what it cannot deliver."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from conftest import PROGRAMS, Workspace, wait_until
from runback.storage.atomic import sha256_of
from runback.storage.journal import Journal
from runback.storage.paths import RunDir
from tracking_parts import (
    check_delivered,
    dump,
    ended,
    journal_points,
    run_and_courier,
    start_trainer,
    status_of,
)


@pytest.fixture
def delivery(workspace: Workspace):
    """A delivery of an empty journal to a new run on a SQLite store."""
    made = new_delivery(workspace)
    yield made
    made.journal.close()


def new_delivery(workspace: Workspace):
    from runback.tracking.delivery import Delivery

    run_id = workspace.client.create_run("0").info.run_id
    folder = RunDir(workspace.home(run_id))
    return Delivery(folder, Journal(folder.journal), workspace.client)


def send_all(delivery, most: int = 200) -> None:
    for _ in range(most):
        if not delivery.step() and delivery.is_complete():
            return
    raise AssertionError(f"not delivered: {delivery.error}")


def add_file(delivery, name: str, content: bytes = b"content") -> Path:
    file = delivery.folder.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    delivery.journal.post(
        "artifact", file=name, artifact_path=str(Path(name).parent), sha256=sha256_of(file)
    )
    return file


def names(workspace: Workspace, run_id: str, folder: str) -> list[str]:
    return sorted(Path(f.path).name for f in workspace.client.list_artifacts(run_id, folder))


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, workspace: Workspace) -> tuple[Workspace, Path]:
    """A workspace, and the database file of its store."""
    if request.param == "sqlite":
        return workspace, workspace.folder / "mlflow.db"
    server = request.getfixturevalue("server")
    return Workspace(workspace.folder, server.uri), server.folder / "server.db"


def test_a_journal_sent_five_times_changes_no_row(store: tuple[Workspace, Path]) -> None:
    """Including NaN and infinite values."""
    where, database = store
    delivery = new_delivery(where)
    for step in range(1, 1501):
        delivery.journal.record([("cost", 1 / step), ("val_cost", float("nan"))], step)
    delivery.journal.record([("lr", float("inf")), ("low", float("-inf"))], 1)
    add_file(delivery, "checkpoints/checkpoint-000001.pt")
    send_all(delivery)
    delivery.journal.set_fact("ended_ms", 1_000_000)
    assert delivery.set_status("FINISHED")
    before = dump(database)
    for _ in range(5):
        delivery.journal.set_facts({"acknowledged": 0, "status_delivered": None})
        delivery.journal._db.execute("UPDATE outbox SET state = 'waiting'")
        send_all(delivery)
        assert delivery.set_status("FINISHED")
    assert dump(database) == before
    history = where.client.get_metric_history(delivery.run_id, "cost")
    assert sorted((p.step, p.value) for p in history) == [(n, 1 / n) for n in range(1, 1501)]
    nan = where.client.get_metric_history(delivery.run_id, "val_cost")
    assert len(nan) == 1500 and all(p.value != p.value for p in nan)
    (most,) = where.client.get_metric_history(delivery.run_id, "lr")
    (least,) = where.client.get_metric_history(delivery.run_id, "low")
    assert (most.value, least.value) == (1.7976931348623157e308, -1.7976931348623157e308)
    delivery.journal.close()


def test_checkpoints_are_sent_between_metric_batches(workspace: Workspace, delivery) -> None:
    for step in range(1, 5001):
        delivery.journal.record([("cost", 1.0)], step)
    add_file(delivery, "checkpoints/checkpoint-000001.pt")
    assert delivery.step()
    assert delivery.journal.waiting() == {"metrics": 4000, "items": 0, "refused": 0}
    delivery.journal.close()


def test_a_checkpoint_pruned_before_sending_is_skipped(workspace: Workspace, delivery) -> None:
    pruned = add_file(delivery, "checkpoints/checkpoint-000001.pt")
    add_file(delivery, "checkpoints/checkpoint-000002.pt")
    delivery.journal.post("delete", path="checkpoints/checkpoint-000001.pt")
    pruned.unlink()
    send_all(delivery)
    assert delivery.journal.refusals() == []
    assert names(workspace, delivery.run_id, "checkpoints") == ["checkpoint-000002.pt"]
    delivery.journal.close()


def test_a_missing_or_changed_file_is_refused_by_name(workspace: Workspace, delivery) -> None:
    add_file(delivery, "checkpoints/checkpoint-000001.pt").unlink()
    add_file(delivery, "checkpoints/checkpoint-000002.pt").write_bytes(b"another")
    replaced = add_file(delivery, "plots/cost.png", b"first")
    add_file(delivery, "plots/cost.png", b"second")
    send_all(delivery)
    gone, damaged = delivery.journal.refusals()
    assert "checkpoint-000001.pt" in gone
    assert "checkpoint-000002.pt: damaged or changed" in damaged
    assert names(workspace, delivery.run_id, "checkpoints") == []
    local = workspace.client.download_artifacts(delivery.run_id, "plots/cost.png")
    assert Path(local).read_bytes() == replaced.read_bytes() == b"second"
    delivery.journal.close()


def test_a_deleted_run_ends_the_wait_and_loses_nothing(
    workspace: Workspace, delivery, capfd: pytest.CaptureFixture[str]
) -> None:
    from runback.tracking import attached_run

    delivery.journal.record([("cost", 1.0)], 1)
    add_file(delivery, "plots/cost.png")
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    workspace.client.delete_run(delivery.run_id)
    started = time.monotonic()
    assert not attached_run.deliver(delivery.folder, delivery.journal, workspace.client)
    assert time.monotonic() - started < 10
    assert "Current state is deleted" in capfd.readouterr().err
    assert delivery.journal.waiting()["metrics"] == 1

    workspace.client.restore_run(delivery.run_id)
    assert attached_run.deliver(delivery.folder, delivery.journal, workspace.client)
    assert status_of(workspace, delivery.run_id) == "FINISHED"
    assert delivery.journal.waiting() == {"metrics": 0, "items": 0, "refused": 0}
    delivery.journal.close()


def test_a_refused_file_is_reported_at_the_end(
    workspace: Workspace, delivery, capfd: pytest.CaptureFixture[str]
) -> None:
    from runback.tracking import attached_run

    add_file(delivery, "plots/cost.png").unlink()
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    assert not attached_run.deliver(delivery.folder, delivery.journal, workspace.client)
    assert "refused: plots/cost.png" in capfd.readouterr().err
    assert status_of(workspace, delivery.run_id) == "FINISHED"
    delivery.journal.close()


def test_a_courier_stops_when_its_run_is_resumed(workspace: Workspace, delivery) -> None:
    """The courier of the earlier training leaves the delivery to the new one."""
    from runback.tracking import attached_run

    delivery.journal.record([("cost", 1.0)], 1)
    delivery.journal.set_facts({"status": None})
    assert not attached_run.deliver(delivery.folder, delivery.journal, workspace.client)
    assert status_of(workspace, delivery.run_id) == "RUNNING"
    delivery.journal.close()


def test_sigkill_before_the_first_point_fails_the_run(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 0, 0.0, "before")
    run_id, _ = run_and_courier(trainer)
    trainer.kill()
    assert ended(trainer)[0] == -signal.SIGKILL
    assert status_of(workspace, run_id) == "FAILED"


def test_sigkill_leaves_a_failed_run_with_all_points(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 400, 0.001, "die")
    run_id, _ = run_and_courier(trainer)
    assert ended(trainer)[0] == -signal.SIGKILL
    assert status_of(workspace, run_id) == "FAILED"
    assert check_delivered(workspace, run_id) == 800
    tags = workspace.client.get_run(run_id).data.tags
    assert tags["runback.error"] == "the training process exited without reporting a status"


def test_a_killed_courier_is_replaced_without_duplicates(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 4000, 0.001, "FINISHED")
    run_id, courier = run_and_courier(trainer)
    wait_until(lambda: len(workspace.client.get_metric_history(run_id, "cost")) > 0)
    os.kill(courier, signal.SIGKILL)
    assert ended(trainer)[0] == 0
    assert status_of(workspace, run_id) == "FINISHED"
    assert check_delivered(workspace, run_id) == 8000


def test_a_courier_killed_at_the_end_is_replaced(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 40, 0.0, "wait")
    run_id, courier = run_and_courier(trainer)
    assert trainer.stdout is not None and trainer.stdout.readline() == "trained\n"
    os.kill(courier, signal.SIGKILL)
    _, errors = trainer.communicate("\n", timeout=120)
    assert trainer.returncode == 0, errors
    assert check_delivered(workspace, run_id) == 80
    assert status_of(workspace, run_id) == "FINISHED"


def test_the_status_arrives_without_a_writable_journal(workspace: Workspace) -> None:
    """On a full disk only the message to the courier has the status."""
    trainer = start_trainer(workspace, 40, 0.0, "unwritten")
    run_id, _ = run_and_courier(trainer)
    assert ended(trainer)[0] == 0
    assert status_of(workspace, run_id) == "FAILED"
    assert workspace.client.get_run(run_id).data.tags["runback.error"] == "no space"


def test_finish_returns_early_when_told_to_leave(workspace: Workspace) -> None:
    from runback.tracking.client import CourierClient

    run_id = workspace.client.create_run("0").info.run_id
    with CourierClient() as client:
        courier = client._courier
        courier.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert client.finish(run_id, "FINISHED", "", leave=lambda: True) is False
        assert time.monotonic() - started < 5
    courier.send_signal(signal.SIGCONT)
    assert courier.wait(60) == 0


def test_a_damaged_journal_still_ends_the_run_failed(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 40, 0.0, "before", RUNBACK_DRAIN_SECONDS="20")
    run_id, _ = run_and_courier(trainer)
    journal = workspace.home(run_id) / "journal.db"
    for name in ("journal.db-wal", "journal.db-shm"):
        (journal.with_name(name)).unlink(missing_ok=True)
    journal.write_bytes(b"garbage" * 1000)
    trainer.kill()
    _, errors = ended(trainer)
    assert f"the journal of run {run_id} cannot be delivered" in errors
    assert "Traceback" not in errors
    assert status_of(workspace, run_id) == "FAILED"


def test_the_status_arrives_without_an_artifact_store(
    workspace: Workspace, delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runback.tracking import attached_run

    monkeypatch.setenv("RUNBACK_DRAIN_SECONDS", "1")
    add_file(delivery, "plots/cost.png")
    store = workspace.client.get_run(delivery.run_id).info.artifact_uri
    folder = Path(store.removeprefix("file://"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the store's folder should be")
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    assert not attached_run.deliver(delivery.folder, delivery.journal, workspace.client)
    assert status_of(workspace, delivery.run_id) == "FINISHED"
    assert delivery.journal.waiting()["items"] == 1
    delivery.journal.close()


class Answer(BaseHTTPRequestHandler):
    status = 500

    def do_POST(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"no")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize(
    ("status", "message", "within"),
    [(500, "did not respond within 1 s", 4), (401, "refused", 1), (403, "refused", 1)],
)
def test_a_failing_server_is_reported_in_time(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str, within: float
) -> None:
    from runback.errors import TrackingError
    from runback.tracking.connection import connect

    handler = type("Handler", (Answer,), {"status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "1")
    uri = f"http://me:secret@127.0.0.1:{server.server_port}"
    started = time.monotonic()
    with pytest.raises(TrackingError, match=message) as error:
        connect(uri)
    assert time.monotonic() - started < within
    assert "secret" not in str(error.value) and str(status) in str(error.value)
    server.shutdown()
    server.server_close()


def test_a_silent_server_is_reported_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import socket

    from runback.errors import TrackingError
    from runback.tracking.connection import connect

    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "2")
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TrackingError, match="did not respond within 2 s"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("uri", "says"), [("ftp://somewhere", "MLFLOW_TRACKING_URI"), ("gopher://x:pw@y", "gopher://y")]
)
def test_an_unknown_uri_scheme_is_refused(uri: str, says: str) -> None:
    from runback.errors import UsageError
    from runback.tracking.connection import connect

    with pytest.raises(UsageError, match=says) as error:
        connect(uri)
    assert "pw" not in str(error.value)


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    from runback.errors import TrackingError
    from runback.tracking.connection import connect

    (tmp_path / "mlflow.db").write_text("not a database, whatever its name says")
    with pytest.raises(TrackingError, match="is not a SQLite database"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")


def test_uris_are_absolute_and_keep_no_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    from runback.errors import TrackingError
    from runback.tracking.connection import describe_error, full_uri, public_uri

    monkeypatch.chdir(tmp_path)
    assert public_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert public_uri("http://me:secret@host:5000") == "http://host:5000"
    assert public_uri("postgresql://me:pa@host/db?password=x") == "postgresql://host/db"
    mlflow.set_tracking_uri("http://me:secret@host:5000")
    try:
        assert full_uri("http://host:5000") == "http://me:secret@host:5000"
        assert full_uri("http://other:5000") == "http://other:5000"
        with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI to postgresql://host/db"):
            full_uri("postgresql://host/db")
    finally:
        mlflow.set_tracking_uri(None)
    assert (
        describe_error(ValueError("GET http://me:secret@host/x failed"))
        == "GET http://host/x failed"
    )


def test_a_courier_needs_no_torch(workspace: Workspace) -> None:
    """From the start of a run to its registered version."""
    path = f"{PROGRAMS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    run_id = workspace.train(PYTHONPATH=path)
    assert status_of(workspace, run_id) == "FINISHED"
    (version,) = workspace.client.search_model_versions("name = 'non_linear'")
    assert version.run_id == run_id


def test_one_courier_delivers_several_runs(workspace: Workspace) -> None:
    """Each ends by itself, with a status of its own; the last one without a word."""
    from runback.storage.paths import pending_run_dir
    from runback.tracking.client import CourierClient
    from runback.tracking.messages import CreateRun, FindRun, RunDescription

    description = RunDescription(params={}, tags={}, facts={"config": {}})
    with CourierClient() as client:
        journals = {}
        for number in range(3):
            pending = pending_run_dir()
            Journal(pending.journal).close()
            run_id = client.ask(CreateRun(pending.mark, description))
            journals[run_id] = Journal(RunDir(workspace.home(run_id)).journal, tidy=False)
            client.attach(run_id)
            for step in range(1, 51):
                journals[run_id].record([("cost", number + 1 / step)], step)
            journals[run_id].flush()
        first, second, third = journals
        for run_id, status in ((first, "FINISHED"), (second, "KILLED")):
            journals[run_id].set_facts({"ended_ms": 1, "status": [status, ""]})
            assert client.finish(run_id, status, "", leave=lambda: False)
            assert status_of(workspace, run_id) == status
            assert status_of(workspace, third) == "RUNNING"
        assert client.ask(FindRun(third)).status == "RUNNING"
    assert [status_of(workspace, run_id) for run_id in journals] == ["FINISHED", "KILLED", "FAILED"]
    assert [check_delivered(workspace, run_id) for run_id in journals] == [50, 50, 50]
    for journal in journals.values():
        journal.close()


def test_four_simultaneous_starts_make_one_store(workspace: Workspace) -> None:
    (workspace.folder / "mlflow.db").unlink()
    trainers = [start_trainer(workspace, 20, 0.0, "FINISHED") for _ in range(4)]
    ids = [run_and_courier(trainer)[0] for trainer in trainers]
    assert [ended(trainer)[0] for trainer in trainers] == [0, 0, 0, 0]
    assert [status_of(workspace, run_id) for run_id in ids] == ["FINISHED"] * 4
    assert all(journal_points(workspace, run_id) for run_id in ids)
    with sqlite3.connect(workspace.folder / "mlflow.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
