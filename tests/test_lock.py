"""The lock: one holder, released when its process ends, and not inherited by workers."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import PROGRAMS
from runback.errors import RunHeldError, UsageError
from runback.storage.lock import FileLock


def holder(path: Path, *then: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, PROGRAMS / "hold_lock.py", path, *then], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_held_lock_names_its_holder_until_sigkill(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    with pytest.raises(RunHeldError, match=f"run x is held by process {process.pid} on ") as error:
        FileLock(tmp_path / "lock").acquire("run x")
    assert error.value.exit_code == 3
    end(process)
    assert FileLock(tmp_path / "lock").try_acquire()


def test_a_forked_worker_does_not_hold_the_lock(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", "fork")
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert FileLock(tmp_path / "lock").wait(5.0)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


def test_two_holders_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock").acquire("it"):
        assert not FileLock(tmp_path / "lock").try_acquire()
    assert FileLock(tmp_path / "lock").try_acquire()


def test_acquire_waits_for_a_brief_holder(tmp_path: Path) -> None:
    looker = FileLock(tmp_path / "lock")
    assert looker.try_acquire()
    threading.Timer(0.2, looker.release).start()
    started = time.monotonic()
    FileLock(tmp_path / "lock").acquire("it").release()
    assert time.monotonic() - started < 0.9


def test_a_lock_in_an_unusable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="lock cannot be locked: "):
        FileLock(tmp_path / "file" / "lock").try_acquire()


def test_a_held_lock_cannot_be_acquired_again_by_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock").acquire("it") as lock:
        assert not lock.try_acquire()
        assert not lock.wait(0.05)
    assert lock.try_acquire()


def test_a_lock_can_be_released_by_another_thread(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock").acquire("it")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert FileLock(tmp_path / "lock").try_acquire()


def test_a_lock_excludes_other_threads(tmp_path: Path) -> None:
    lock, found = FileLock(tmp_path / "lock").acquire("it"), []
    tries = (lock.try_acquire, FileLock(tmp_path / "lock").try_acquire)
    threads = [threading.Thread(target=lambda take=take: found.append(take())) for take in tries]
    for thread in threads:
        thread.start()
        thread.join()
    assert found == [False, False]
    lock.release()


def test_release_of_a_lock_that_is_not_held_does_nothing(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.release()
    with FileLock(tmp_path / "lock").acquire("it"):
        lock.release()
        assert not FileLock(tmp_path / "lock").try_acquire()


def test_lock_in_a_renamed_folder_stays_held(tmp_path: Path) -> None:
    """A run's folder gets its final name while its process holds the lock in it."""
    (tmp_path / "new").mkdir()
    process = holder(tmp_path / "new" / "lock")
    (tmp_path / "new").rename(tmp_path / "run")
    late = FileLock(tmp_path / "run" / "lock")
    assert not late.try_acquire()
    assert f"process {process.pid} on " in late.holder()
    end(process)
    assert late.try_acquire()


def test_release_after_a_rename_leaves_other_files_alone(tmp_path: Path) -> None:
    """Another folder may have taken the old name, with a lock of its own."""
    (tmp_path / "new").mkdir()
    lock = FileLock(tmp_path / "new" / "lock").acquire("it")
    (tmp_path / "new").rename(tmp_path / "run")
    with FileLock(tmp_path / "new" / "lock").acquire("other"):
        lock.release()
        assert not FileLock(tmp_path / "new" / "lock").try_acquire()
    assert (tmp_path / "run" / "lock").exists()
    assert FileLock(tmp_path / "run" / "lock").try_acquire()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_flock_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UsageError, match=re.escape(f"cannot be locked: {os.strerror(number)}")):
        FileLock(tmp_path / "lock").try_acquire()


def test_lock_is_held_without_a_name_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with (
        FileLock(tmp_path / "lock").acquire("it"),
        pytest.raises(RunHeldError, match="run x is held by another process"),
    ):
        FileLock(tmp_path / "lock").acquire("run x", 0.0)
