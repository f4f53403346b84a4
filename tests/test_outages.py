"""What a training says about its tracking server: nothing while it works, one line an outage."""

from __future__ import annotations

import subprocess
import sys

from conftest import Server, Workspace, wait_until
from tracking_parts import check_delivered, ended, quick, run_and_courier, start_trainer, status_of

TROUBLE = ("cannot be used", "still to be delivered", "not delivered", "available again", "retry")


def trouble(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if any(word in line for word in TROUBLE)]


def test_a_healthy_store_under_load_is_not_mentioned(workspace: Workspace) -> None:
    """Two processes keep both cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        done = workspace.runback(*quick("--epochs", "3000", "--checkpoint-every", "100"))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    assert trouble(done.stderr) == []


def test_an_outage_is_reported_once_and_its_end_once(remote: Workspace, server: Server) -> None:
    trainer = start_trainer(remote, 1500, 0.002, "wait")
    run_id, _ = run_and_courier(trainer)
    wait_until(lambda: len(remote.client.get_metric_history(run_id, "cost")) > 0)
    server.kill()
    assert trainer.stderr is not None
    begun = trainer.stderr.readline()
    server.start()
    over = trainer.stderr.readline()
    _, errors = trainer.communicate("\n", timeout=120)
    assert trainer.returncode == 0
    place = f"runback: tracking server {server.uri}"
    assert begun == (
        f"{place} cannot be used (connection refused): what the training records is kept, and is "
        "delivered later\n"
    )
    assert over.startswith(f"{place} is available again: delivered ")
    assert trouble(errors) == []
    assert "metric points" in over
    assert check_delivered(remote, run_id) == 3000


def test_a_lasting_outage_ends_with_the_way_out(remote: Workspace, server: Server) -> None:
    """The password in the URI is not shown."""
    uri = server.uri.replace("://", "://me:secret@")
    trainer = start_trainer(
        remote, 400, 0.01, "FINISHED", MLFLOW_TRACKING_URI=uri, RUNBACK_DRAIN_SECONDS="4"
    )
    run_id, _ = run_and_courier(trainer)
    wait_until(lambda: len(remote.client.get_metric_history(run_id, "cost")) > 0)
    server.kill()
    code, errors = ended(trainer)
    assert code == 75
    *_, last = lines = trouble(errors)
    assert "secret" not in errors and "Traceback" not in errors
    assert sum("connection refused" in line for line in lines) == 1
    assert last.startswith("runback: not delivered: ")
    assert last.endswith(f"; deliver the rest with: runback sync {run_id}")
    assert sum("runback sync" in line for line in lines) == 1
    server.start()
    assert remote.runback("sync", run_id).returncode == 0
    assert status_of(remote, run_id) == "FINISHED"
