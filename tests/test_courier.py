"""The courier: carries everything once, outlives what it must, and says what it cannot do."""

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

from conftest import Server, Workspace, wait_until
from runback.storage.atomic import sha256_of
from runback.storage.journal import Journal
from runback.storage.paths import RunDir
from tracking_parts import (
    check_delivered,
    dump,
    ended,
    first_line,
    journal_points,
    start_trainer,
    status_of,
)


@pytest.fixture
def delivery(workspace: Workspace):
    """A delivery of an empty journal to a fresh run on a SQLite store."""
    return new_delivery(workspace)


def new_delivery(workspace: Workspace):
    from runback.tracking.delivery import Delivery

    run_id = workspace.client.create_run("0").info.run_id
    folder = RunDir(workspace.home(run_id))
    return Delivery(folder, Journal(folder.journal), workspace.client)


def send_all(delivery, most: int = 200) -> None:
    for _ in range(most):
        if not delivery.step() and delivery.is_complete():
            return
    raise AssertionError(f"not delivered: {delivery.trouble}")


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


def test_a_journal_sent_five_times_changes_no_row(workspace: Workspace, server: Server) -> None:
    """On a SQLite store and through a real server, with values of every kind."""
    remote = Workspace(workspace.folder, server.uri)
    for where, database in (
        (workspace, workspace.folder / "mlflow.db"),
        (remote, server.folder / "server.db"),
    ):
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


def test_checkpoints_do_not_wait_for_endless_metrics(workspace: Workspace, delivery) -> None:
    for step in range(1, 5001):
        delivery.journal.record([("cost", 1.0)], step)
    add_file(delivery, "checkpoints/checkpoint-000001.pt")
    assert delivery.step()
    assert delivery.journal.waiting() == {"metrics": 4000, "items": 0, "refused": 0}
    delivery.journal.close()


def test_a_checkpoint_pruned_before_it_was_sent_is_no_alarm(workspace: Workspace, delivery) -> None:
    pruned = add_file(delivery, "checkpoints/checkpoint-000001.pt")
    add_file(delivery, "checkpoints/checkpoint-000002.pt")
    delivery.journal.post("delete", path="checkpoints/checkpoint-000001.pt")
    pruned.unlink()
    send_all(delivery)
    assert delivery.journal.refusals() == []
    assert names(workspace, delivery.run_id, "checkpoints") == ["checkpoint-000002.pt"]
    delivery.journal.close()


def test_a_file_that_vanished_or_changed_is_refused_by_name(workspace: Workspace, delivery) -> None:
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


def test_a_deleted_run_ends_the_wait_at_once_and_drops_nothing(
    workspace: Workspace, delivery, capfd: pytest.CaptureFixture[str]
) -> None:
    from runback.tracking import courier

    delivery.journal.record([("cost", 1.0)], 1)
    add_file(delivery, "plots/cost.png")
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    workspace.client.delete_run(delivery.run_id)
    started = time.monotonic()
    assert not courier.deliver(delivery.folder, delivery.journal, workspace.client)
    assert time.monotonic() - started < 10
    assert "Current state is deleted" in capfd.readouterr().err
    assert delivery.journal.waiting()["metrics"] == 1

    workspace.client.restore_run(delivery.run_id)
    assert courier.deliver(delivery.folder, delivery.journal, workspace.client)
    assert status_of(workspace, delivery.run_id) == "FINISHED"
    assert delivery.journal.waiting() == {"metrics": 0, "items": 0, "refused": 0}
    delivery.journal.close()


def test_a_refused_file_is_told_at_the_end_and_the_status_is_true(
    workspace: Workspace, delivery, capfd: pytest.CaptureFixture[str]
) -> None:
    from runback.tracking import courier

    add_file(delivery, "plots/cost.png").unlink()
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    assert not courier.deliver(delivery.folder, delivery.journal, workspace.client)
    assert "refused: plots/cost.png" in capfd.readouterr().err
    assert status_of(workspace, delivery.run_id) == "FINISHED"
    delivery.journal.close()


def test_a_resumed_run_takes_the_delivery_over(workspace: Workspace, delivery) -> None:
    """An old courier that still drains steps aside when a new training has begun."""
    from runback.tracking import courier

    delivery.journal.record([("cost", 1.0)], 1)
    delivery.journal.set_facts({"status": None})
    assert not courier.deliver(delivery.folder, delivery.journal, workspace.client)
    assert status_of(workspace, delivery.run_id) == "RUNNING"
    delivery.journal.close()


def test_kill_9_at_any_moment_leaves_a_failed_run_with_all_that_the_journal_holds(
    workspace: Workspace,
) -> None:
    """Before the training begins, in the middle, and with loader workers' copies of the pipe."""
    early = start_trainer(workspace, 0, 0.0, "before")
    run_id, _ = first_line(early)
    early.kill()
    assert ended(early)[0] == -signal.SIGKILL
    assert status_of(workspace, run_id) == "FAILED"

    late = start_trainer(workspace, 400, 0.001, "die")
    run_id, _ = first_line(late)
    assert ended(late)[0] == -signal.SIGKILL
    assert status_of(workspace, run_id) == "FAILED"
    assert check_delivered(workspace, run_id) == 800
    tags = workspace.client.get_run(run_id).data.tags
    assert tags["runback.error"] == "the training process died without a word"


def test_a_killed_courier_is_replaced_and_nothing_is_doubled(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 4000, 0.001, "FINISHED")
    run_id, courier = first_line(trainer)
    wait_until(lambda: len(workspace.client.get_metric_history(run_id, "cost")) > 0)
    os.kill(courier, signal.SIGKILL)
    assert ended(trainer)[0] == 0
    assert status_of(workspace, run_id) == "FINISHED"
    assert check_delivered(workspace, run_id) == 8000


def test_a_courier_killed_after_the_training_is_replaced_as_well(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 40, 0.0, "wait")
    run_id, courier = first_line(trainer)
    assert trainer.stdout is not None and trainer.stdout.readline() == "trained\n"
    os.kill(courier, signal.SIGKILL)
    _, errors = trainer.communicate("\n", timeout=120)
    assert trainer.returncode == 0, errors
    assert check_delivered(workspace, run_id) == 80
    assert status_of(workspace, run_id) == "FINISHED"


def test_the_end_is_known_where_the_journal_cannot_say_it(workspace: Workspace) -> None:
    """On a full disk the training process tells its courier alone."""
    trainer = start_trainer(workspace, 40, 0.0, "unwritten")
    run_id, _ = first_line(trainer)
    assert ended(trainer)[0] == 0
    assert status_of(workspace, run_id) == "FAILED"
    assert workspace.client.get_run(run_id).data.tags["runback.error"] == "no space"


def test_who_does_not_want_to_wait_leaves_the_courier_to_itself(workspace: Workspace) -> None:
    from runback.tracking.client import CourierClient

    with CourierClient() as desk:
        courier = desk._courier
        courier.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert desk.finish("FINISHED", "", leave=lambda: True) is False
        assert time.monotonic() - started < 5
    courier.send_signal(signal.SIGCONT)
    assert courier.wait(60) == 0


def test_a_damaged_journal_still_gets_a_true_status_and_a_sentence(workspace: Workspace) -> None:
    trainer = start_trainer(workspace, 40, 0.0, "before", RUNBACK_DRAIN_SECONDS="20")
    run_id, _ = first_line(trainer)
    journal = workspace.home(run_id) / "journal.db"
    for name in ("journal.db-wal", "journal.db-shm"):
        (journal.with_name(name)).unlink(missing_ok=True)
    journal.write_bytes(b"garbage" * 1000)
    trainer.kill()
    _, errors = ended(trainer)
    assert f"the journal of run {run_id} cannot be delivered" in errors
    assert "Traceback" not in errors
    assert status_of(workspace, run_id) == "FAILED"


def test_a_server_without_its_artifact_store_still_gets_the_status(
    workspace: Workspace, delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runback.tracking import courier

    monkeypatch.setenv("RUNBACK_DRAIN_SECONDS", "1")
    add_file(delivery, "plots/cost.png")
    store = workspace.client.get_run(delivery.run_id).info.artifact_uri
    folder = Path(store.removeprefix("file://"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the store's folder should be")
    delivery.journal.set_facts({"status": ["FINISHED", ""], "ended_ms": 1})
    assert not courier.deliver(delivery.folder, delivery.journal, workspace.client)
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
    ("status", "says", "within"),
    [(500, "gives no good answer within 1 s", 4), (401, "refuses", 1), (403, "refuses", 1)],
)
def test_a_server_that_will_not_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch, status: int, says: str, within: float
) -> None:
    from runback.errors import TrackingError
    from runback.tracking.connection import connect

    handler = type("Handler", (Answer,), {"status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "1")
    uri = f"http://me:secret@127.0.0.1:{server.server_port}"
    started = time.monotonic()
    with pytest.raises(TrackingError, match=says) as error:
        connect(uri)
    assert time.monotonic() - started < within
    assert "secret" not in str(error.value) and str(status) in str(error.value)
    server.shutdown()
    server.server_close()


def test_an_address_that_swallows_everything_is_told_in_time(
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
        with pytest.raises(TrackingError, match="gives no good answer within 2 s"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("uri", "says"), [("ftp://somewhere", "MLFLOW_TRACKING_URI"), ("gopher://x:pw@y", "gopher://y")]
)
def test_a_wrong_scheme_is_the_users_mistake(uri: str, says: str) -> None:
    from runback.errors import UsageError
    from runback.tracking.connection import connect

    with pytest.raises(UsageError, match=says) as error:
        connect(uri)
    assert "pw" not in str(error.value)


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    from runback.errors import TrackingError
    from runback.tracking.connection import connect

    (tmp_path / "mlflow.db").write_text("not a database, whatever its name says")
    with pytest.raises(TrackingError, match="is not a SQLite database"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")


def test_places_are_absolute_and_keep_no_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    from runback.errors import TrackingError
    from runback.tracking.connection import describe_error, place_of, uri_of

    monkeypatch.chdir(tmp_path)
    assert place_of("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert place_of("http://me:secret@host:5000") == "http://host:5000"
    assert place_of("postgresql://me:pa@host/db?password=x") == "postgresql://host/db"
    mlflow.set_tracking_uri("http://me:secret@host:5000")
    try:
        assert uri_of("http://host:5000") == "http://me:secret@host:5000"
        assert uri_of("http://other:5000") == "http://other:5000"
        with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI to postgresql://host/db"):
            uri_of("postgresql://host/db")
    finally:
        mlflow.set_tracking_uri(None)
    assert (
        describe_error(ValueError("GET http://me:secret@host/x failed"))
        == "GET http://host/x failed"
    )


def test_four_processes_that_start_at_once_make_one_store(workspace: Workspace) -> None:
    (workspace.folder / "mlflow.db").unlink()
    trainers = [start_trainer(workspace, 20, 0.0, "FINISHED") for _ in range(4)]
    ids = [first_line(trainer)[0] for trainer in trainers]
    assert [ended(trainer)[0] for trainer in trainers] == [0, 0, 0, 0]
    assert [status_of(workspace, run_id) for run_id in ids] == ["FINISHED"] * 4
    assert all(journal_points(workspace, run_id) for run_id in ids)
    with sqlite3.connect(workspace.folder / "mlflow.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
