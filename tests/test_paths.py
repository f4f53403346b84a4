"""Run directories: pending ones, their final place, and which are listed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from runback.errors import StorageError, UsageError
from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import (
    RunDir,
    home,
    known_run_dirs,
    pending_run_dir,
    pending_run_dirs,
    run_dir,
    settle,
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBACK_HOME", str(tmp_path / "home"))


def with_journal(run: RunDir, age: int = 0) -> RunDir:
    run.path.mkdir(parents=True)
    run.journal.write_bytes(b"")
    seconds = run.journal.stat().st_mtime - age
    os.utime(run.journal, (seconds, seconds))
    return run


def test_a_pending_directory_has_a_mark_of_its_own() -> None:
    first, second = pending_run_dir(), pending_run_dir()
    assert first.is_pending and first != second
    assert first.path == home() / f"new-{first.mark}" and len(first.mark) == 32
    assert not first.path.exists()


@pytest.mark.parametrize("name", ["abc", "new-abc", "new-", "renew-" + "0" * 32])
def test_a_run_with_an_id_is_not_pending(name: str) -> None:
    run = run_dir(name)
    assert not run.is_pending
    assert run.mark == ""


def test_a_pending_directory_is_not_a_run_id() -> None:
    with pytest.raises(UsageError, match="is not a run ID"):
        run_dir(pending_run_dir().path.name)


def test_settle_moves_all_files_to_the_final_place() -> None:
    pending = with_journal(pending_run_dir())
    (pending.path / "outbox").mkdir()
    final = settle(pending, "abc")
    assert final == run_dir("abc")
    assert not pending.path.exists()
    assert final.journal.exists() and final.outbox.is_dir()


def test_settle_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("runback.storage.paths.sync_folder", synced.append)
    settle(with_journal(pending_run_dir()), "abc")
    assert synced == [home()]


def test_the_journal_and_a_held_lock_survive_settle() -> None:
    pending = pending_run_dir()
    with FileLock(pending.lock).acquire("it"):
        with contextlib.closing(Journal(pending.journal)) as journal:
            journal.set_fact("identity", "mine")
        final = settle(pending, "abc")
        assert not FileLock(final.lock).try_acquire()
    assert FileLock(final.lock).try_acquire()
    with contextlib.closing(Journal(final.journal)) as journal:
        assert journal.identity() == "mine"


def test_settle_refuses_a_place_that_has_a_journal() -> None:
    pending, there = with_journal(pending_run_dir()), with_journal(run_dir("abc"))
    with pytest.raises(StorageError, match=f"{there.path} cannot be created: it already contains"):
        settle(pending, "abc")
    assert pending.journal.exists()


def test_settle_refuses_a_place_that_has_other_files() -> None:
    pending, final = with_journal(pending_run_dir()), run_dir("abc")
    final.path.mkdir()
    (final.path / "file").write_text("kept")
    with pytest.raises(StorageError, match=f"cannot be renamed to {final.path}: .*not empty"):
        settle(pending, "abc")
    assert (final.path / "file").read_text() == "kept"


def test_settle_refuses_what_is_no_run_id() -> None:
    pending = with_journal(pending_run_dir())
    with pytest.raises(UsageError, match="is not a run ID"):
        settle(pending, "../elsewhere")
    assert pending.journal.exists()


def test_pending_and_known_runs_are_listed_apart_by_age() -> None:
    known = [with_journal(run_dir(name), age) for name, age in (("b", 30), ("a", 20))]
    pending = [with_journal(pending_run_dir(), age) for age in (40, 10)]
    run_dir("empty").path.mkdir()
    pending_run_dir().path.mkdir()
    assert known_run_dirs() == known
    assert pending_run_dirs() == pending


def test_without_a_home_nothing_is_listed() -> None:
    assert known_run_dirs() == pending_run_dirs() == []
