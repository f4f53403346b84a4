"""A full disk: old checkpoints survive, the error names the folder, and the run can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DATA, Workspace
from in_process import difference, history, last_checkpoint, train_until
from runback.config import TrainConfig
from runback.errors import CheckpointError, JournalError, StorageError
from runback.storage.atomic import naming_a_full_disk
from runback.storage.checkpoints import (
    Manifest,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
)

CONFIG = TrainConfig(
    data=str(DATA / "non_linear.csv"), epochs=40, checkpoint_every=2, checkpoint_minutes=0.0
)


def mounted(folder: Path) -> bool:
    """Mounts a small tmpfs; returns whether that was permitted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of 3 MB."""
    folder = tmp_path / "disk"
    if not mounted(folder):
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a full disk."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_until(folder, CONFIG)
    return folder


def assert_good(run: Path) -> int:
    """Every checkpoint with a manifest loads; returns how many there are."""
    checkpoints = run / "checkpoints"
    for position in local_positions(checkpoints):
        manifest = Manifest.read(checkpoints / manifest_name(checkpoint_name(*position)))
        assert load_checkpoint(checkpoints, manifest)["epoch"] == position[0]
    return len(local_positions(checkpoints))


def assert_ends_like(run: Path, whole: Path) -> None:
    assert difference(last_checkpoint(run), last_checkpoint(whole)) == ""
    assert difference(history(run), history(whole)) == ""


def leave_free(disk: Path, kilobytes: int) -> Path:
    """Fills a disk except for `kilobytes`; returns the file that fills it."""
    ballast, found = disk / "ballast", os.statvfs(disk)
    ballast.write_bytes(b"\0" * (found.f_bavail * found.f_frsize - kilobytes * 1024))
    return ballast


def test_a_full_disk_at_any_write_keeps_old_checkpoints(disk: Path, whole: Path) -> None:
    """Each attempt has 4 kB more, so that another write fails."""
    run = disk / "run"
    counts, errors = [0], []
    for room in range(4, 64, 4):
        ballast = leave_free(disk, room)
        with pytest.raises((CheckpointError, JournalError)) as caught:
            train_until(run, CONFIG)
        errors.append(str(caught.value))
        ballast.unlink()
        counts.append(assert_good(run) if run.exists() else 0)
    assert counts == sorted(counts), "a checkpoint has gone"
    assert counts[-1] > 3, "the disk was always full"
    assert any("no space left on the disk that holds" in text for text in errors)
    assert any("journal" in text for text in errors)
    assert all(str(disk) in text for text in errors)
    train_until(run, CONFIG)
    assert_ends_like(run, whole)


@pytest.mark.parametrize("kilobytes", [1, 4, 12, 17, 24, 48, 90])
def test_a_file_size_limit_keeps_old_checkpoints(
    tmp_path: Path, whole: Path, kilobytes: int
) -> None:
    """Limits below the size of a manifest, a checkpoint, the journal and its log."""
    run = tmp_path / "run"
    train_until(run, dataclasses.replace(CONFIG, epochs=4))
    before = {f.name: f.read_bytes() for f in (run / "checkpoints").iterdir()}
    with file_size_limit(kilobytes * 1024), contextlib.suppress(CheckpointError, JournalError):
        train_until(run, CONFIG)
    after = {f.name: f.read_bytes() for f in (run / "checkpoints").iterdir()}
    assert before.items() <= after.items()
    assert not [name for name in after if name.endswith(".tmp")]
    assert_good(run)
    train_until(run, CONFIG)
    assert_ends_like(run, whole)


def test_a_full_disk_error_names_the_folder(tmp_path: Path) -> None:
    with (
        file_size_limit(100),
        pytest.raises(StorageError, match=f"file size limit .* on the disk that holds {tmp_path}"),
        naming_a_full_disk(tmp_path / "run"),
    ):
        (tmp_path / "plot.png").write_bytes(b"\0" * 1000)
    with pytest.raises(FileNotFoundError), naming_a_full_disk(tmp_path / "run"):
        (tmp_path / "absent" / "plot.png").write_bytes(b"")


def test_a_full_disk_fails_the_run_and_it_resumes(workspace: Workspace, disk: Path) -> None:
    """One sentence is printed, and the run resumes when there is room."""
    options = ("--data", CONFIG.data, "--epochs", "300", "--checkpoint-every", "10")
    home = {"RUNBACK_HOME": str(disk / "home"), "RUNBACK_DRAIN_SECONDS": "3"}
    ballast = leave_free(disk, 400)
    failed = workspace.runback("train", *options, **home)
    assert failed.returncode == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert str(disk) in failed.stderr.splitlines()[-1]
    (run,) = workspace.client.search_runs(["0"])
    assert run.info.status == "FAILED"
    done = len(local_positions(disk / "home" / run.info.run_id / "checkpoints"))
    assert done > 3
    ballast.unlink()
    resumed = workspace.runback("resume", run.info.run_id, **home)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch" in resumed.stderr
    assert workspace.client.get_run(run.info.run_id).info.status == "FINISHED"
    history = workspace.client.get_metric_history(run.info.run_id, "cost")
    assert sorted(p.step for p in history) == list(range(1, 301))
