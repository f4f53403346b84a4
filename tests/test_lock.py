"""The lock: one holder, released when its process ends, and not inherited by workers."""

from __future__ import annotations

import os
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
    with pytest.raises(UsageError, match="cannot be made"):
        FileLock(tmp_path / "file" / "lock").try_acquire()
