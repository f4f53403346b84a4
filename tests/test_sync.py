"""`runback sync`: delivers later, repeatedly, and beside an active courier."""

from __future__ import annotations

import json
import os
import signal

import pytest

from conftest import Server, Workspace
from runback.storage.journal import Journal
from runback.tracking import tags
from tracking_parts import (
    check_delivered,
    dump,
    ended,
    journal_points,
    quick,
    run_and_courier,
    start_trainer,
    status_of,
    training_run,
)


def synced(workspace: Workspace, *arguments: str, **env: str) -> tuple[int, dict[str, int], str]:
    done = workspace.runback("sync", *arguments, **env)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_sync_delivers_after_an_outage(remote: Workspace, server: Server) -> None:
    """The training exits with 75, `sync` delivers, and a second `sync` changes no row."""
    epochs = 15_000
    trainer = remote.start(
        *quick("--epochs", str(epochs), "--checkpoint-every", "5000"),
        MLFLOW_TRACKING_URI=server.uri.replace("://", "://me:secret@"), RUNBACK_DRAIN_SECONDS="1",
    )  # fmt: skip
    run_id = training_run(remote)
    server.kill()
    returned, errors = ended(trainer)
    assert returned == 75
    assert "metric points and" in errors and "not delivered: " in errors
    assert f"deliver the rest with: runback sync {run_id}" in errors
    assert "secret" not in errors
    for file in remote.home(run_id).iterdir():
        assert file.is_dir() or b"secret" not in file.read_bytes(), file

    returned, counts, errors = synced(remote, run_id, RUNBACK_CONNECT_SECONDS="1")
    assert returned == 75 and counts["waiting"] > 0, errors
    assert "did not respond" in errors and "Traceback" not in errors

    server.start()
    assert synced(remote, run_id[:8])[:2] == (
        0, {"runs": 1, "delivered": 1, "busy": 0, "waiting": 0},
    )  # fmt: skip
    assert status_of(remote, run_id) == "FINISHED"
    assert check_delivered(remote, run_id) >= 2 * epochs
    assert remote.client.search_model_versions("name = 'non_linear'")[0].run_id == run_id

    before = dump(server.folder / "server.db")
    assert synced(remote)[:2] == (0, {"runs": 1, "delivered": 0, "busy": 0, "waiting": 0})
    assert dump(server.folder / "server.db") == before


def test_sync_ends_dead_runs_and_skips_live_ones(workspace: Workspace) -> None:
    """Training and courier of one run are killed while another run trains."""
    from runback.commands.sync import sync

    dead = start_trainer(workspace, 400, 0.001, "wait")
    lost, courier = run_and_courier(dead)
    assert dead.stdout is not None and dead.stdout.readline() == "trained\n"
    os.kill(courier, signal.SIGKILL)
    dead.kill()
    ended(dead)
    assert status_of(workspace, lost) == "RUNNING"

    live = start_trainer(workspace, 400, 0.0, "wait")
    held, _ = run_and_courier(live)
    assert live.stdout is not None and live.stdout.readline() == "trained\n"
    assert sync().as_json() == {"runs": 2, "delivered": 1, "busy": 1, "waiting": 0}
    assert status_of(workspace, lost) == "FAILED"
    assert check_delivered(workspace, lost) == 800
    assert status_of(workspace, held) == "RUNNING"

    live.communicate("\n", timeout=120)
    assert live.returncode == 0
    assert sync().as_json() == {"runs": 2, "delivered": 0, "busy": 0, "waiting": 0}
    assert check_delivered(workspace, held) == 800


def make_journal(workspace: Workspace, run_id: str, uri: str | None = None) -> Journal:
    journal = Journal(workspace.home(run_id) / "journal.db")
    journal.record([("cost", 1.0)], 1)
    journal.set_facts(
        {"tracking_uri": uri or workspace.uri, "status": ["FINISHED", ""], "ended_ms": 1}
    )
    journal.flush()
    return journal


def test_sync_takes_a_unique_prefix(workspace: Workspace) -> None:
    from runback.commands.sync import sync
    from runback.errors import RunNotFoundError

    runs = [workspace.client.create_run("0").info.run_id for _ in range(2)]
    for run_id in runs:
        make_journal(workspace, run_id).close()
    with pytest.raises(RunNotFoundError, match="no journal of run 'zzzz' here"):
        sync("zzzz")
    assert sync(runs[0]).runs == 1
    assert status_of(workspace, runs[0]) == "FINISHED"
    assert status_of(workspace, runs[1]) == "RUNNING"
    assert sync(f"runs:/{runs[1]}").delivered == 1


def test_an_ambiguous_prefix_is_refused_with_the_candidates(workspace: Workspace) -> None:
    from runback.commands.sync import sync
    from runback.errors import RunNotFoundError

    for run_id in ("abc1", "abc2", "abc"):
        make_journal(workspace, run_id).close()
    with pytest.raises(RunNotFoundError, match=r"3 runs begin with 'ab': .*give more of the ID"):
        sync("ab")
    assert sync("abc").runs == 1  # an exact name is no prefix


def test_one_damaged_journal_does_not_stop_the_others(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    from runback.commands.sync import sync

    damaged = workspace.home("damaged") / "journal.db"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"garbage" * 1000)
    run_id = workspace.client.create_run("0").info.run_id
    make_journal(workspace, run_id).close()
    assert sync().as_json() == {"runs": 2, "delivered": 1, "busy": 0, "waiting": 1}
    assert "run damaged: " in capsys.readouterr().err
    assert status_of(workspace, run_id) == "FINISHED"


def test_sync_retries_refused_files(workspace: Workspace) -> None:
    from runback.commands.sync import sync
    from runback.storage.atomic import sha256_of

    run_id = workspace.client.create_run("0").info.run_id
    journal = make_journal(workspace, run_id)
    file = workspace.home(run_id) / "plot.png"
    file.write_bytes(b"plot")
    journal.post("artifact", file="plot.png", artifact_path="", sha256=sha256_of(file))
    content = file.read_bytes()
    file.unlink()
    assert sync().as_json() == {"runs": 1, "delivered": 0, "busy": 0, "waiting": 1}
    assert status_of(workspace, run_id) == "FINISHED"
    file.write_bytes(content)
    assert sync().as_json() == {"runs": 1, "delivered": 1, "busy": 0, "waiting": 0}
    assert [f.path for f in workspace.client.list_artifacts(run_id)] == ["plot.png"]
    journal.close()


def test_sync_skips_a_run_resumed_elsewhere(workspace: Workspace) -> None:
    from runback.commands.sync import sync

    run_id = workspace.client.create_run("0").info.run_id
    make_journal(workspace, run_id).close()
    workspace.client.set_tag(run_id, tags.RUN, '{"journal": "another machine\'s"}')
    assert sync().waiting == 0
    assert status_of(workspace, run_id) == "RUNNING"
    assert workspace.client.get_metric_history(run_id, "cost") == []


def test_sync_ignores_a_journal_without_points(
    workspace: Workspace,
) -> None:
    from runback.commands.sync import sync

    run_id = workspace.client.create_run("0").info.run_id
    journal = Journal(workspace.home(run_id) / "journal.db")
    journal.identity()
    journal.close()
    assert sync().as_json() == {"runs": 1, "delivered": 0, "busy": 0, "waiting": 0}
    assert status_of(workspace, run_id) == "RUNNING"
    assert journal_points(workspace, run_id) == {}
