"""Local folders that are put back from older copies, and processes killed in their first second."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import DATA, SECONDS, Workspace, wait_until
from in_process import difference, last_checkpoint
from runback.storage.checkpoints import local_positions
from tracking_parts import alive, ended, status_of

EPOCHS = 60
WORDS = (
    "train", "--data", str(DATA / "non_linear.csv"), "--batch-size", "16", "--optimizer", "adam",
    "--epochs", str(EPOCHS), "--checkpoint-every", "4", "--keep-checkpoints", "3",
    "--model", str(Path(__file__).parent / "programs" / "noisy.py") + ":Noisy",
)  # fmt: skip
Points = dict[tuple[str, int], float]


def published(workspace: Workspace, run_id: str) -> Points:
    """The value of each point; asserts that no point is there twice."""
    found: Points = {}
    for key in workspace.client.get_run(run_id).data.metrics:
        for point in workspace.client.get_metric_history(run_id, key):
            assert (key, point.step) not in found, f"{key} of epoch {point.step} is there twice"
            found[key, point.step] = point.value
    return found


def visible(workspace: Workspace, known: set[str]) -> str:
    """Waits until a new run is on the store; its ID."""
    new: set[str] = set()

    def is_there() -> bool:
        new.update({run.info.run_id for run in workspace.client.search_runs(["0"])} - known)
        return bool(new)

    wait_until(is_there, SECONDS)
    return new.pop()


def copied(home: Path, target: Path) -> Path:
    """A copy of the local folders while they change, as a backup makes it."""

    def ignoring_deleted(source: str, destination: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, destination)

    with contextlib.suppress(shutil.Error):
        shutil.copytree(home, target, copy_function=ignoring_deleted)
    return target


def put_back(home: Path, copy: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(copy, home)


def assert_like(workspace: Workspace, run_id: str, whole: str) -> None:
    """The same points, bit for bit, and the same last checkpoint, as the uninterrupted run."""
    assert difference(published(workspace, run_id), published(workspace, whole)) == ""
    states = [last_checkpoint(workspace.home(name)) for name in (run_id, whole)]
    for state in states:
        state.pop("config")
    assert difference(*states) == ""


def resume_from_copies(workspace: Workspace, times: int, generator: random.Random) -> None:
    """Copies `.runback` at random moments, goes on, puts a copy back, and resumes, `times` times."""
    done = workspace.runback(*WORDS, SLEEP_SECONDS="0")
    assert done.returncode == 0, done.stderr
    whole, home = done.stdout.strip(), workspace.folder / ".runback"
    process = workspace.start(*WORDS, SLEEP_SECONDS="0.01")
    run_id, copies = visible(workspace, {whole}), []
    for number in range(times):
        wait_until(lambda: bool(local_positions(workspace.home(run_id) / "checkpoints")), SECONDS)
        for _ in range(2):
            time.sleep(generator.uniform(0.0, 0.6))
            copies.append(copied(home, workspace.folder / f"copy{len(copies)}"))
        time.sleep(generator.uniform(0.0, 0.6))
        process.send_signal(generator.choice((signal.SIGTERM, signal.SIGKILL)))
        ended(process)
        wait_until(lambda: status_of(workspace, run_id) != "RUNNING", SECONDS)
        wait_until(lambda: not running_couriers(home), SECONDS)
        put_back(home, generator.choice(copies))
        pace = "0.01" if number + 1 < times else "0"
        process = workspace.start("resume", run_id, SLEEP_SECONDS=pace)
    code, errors = ended(process)
    assert code == 0, errors
    assert "not deterministic" not in errors
    assert status_of(workspace, run_id) == "FINISHED"
    assert_like(workspace, run_id, whole)
    old_copies_change_nothing(workspace, run_id, [copies[0], generator.choice(copies)])


def running_couriers(home: Path) -> list[str]:
    """The processes of couriers with this folder as RUNBACK_HOME."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    found = [line.split()[0] for line in listed.splitlines() if "runback.tracking.courier" in line]
    return [pid for pid in found if f"RUNBACK_HOME={home}" in environment_of(pid)]


def environment_of(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return ""


def on_server(workspace: Workspace, run_id: str) -> tuple[object, ...]:
    """What the store has of a run."""
    client = workspace.client
    files = {file.path for file in client.list_artifacts(run_id, "checkpoints")}
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    models = client.search_logged_models(["0"], filter_string=f"source_run_id = '{run_id}'")
    return (
        status_of(workspace, run_id), published(workspace, run_id), files, len(versions), len(models),
    )  # fmt: skip


def old_copies_change_nothing(workspace: Workspace, run_id: str, copies: list[Path]) -> None:
    """Neither a `sync` nor a `resume` of a finished run beside an older folder."""
    home, before = workspace.folder / ".runback", on_server(workspace, run_id)
    for copy in copies:
        put_back(home, copy)
        assert workspace.runback("sync", run_id).returncode == 0
        assert on_server(workspace, run_id) == before
        put_back(home, copy)
        done = workspace.runback("resume", run_id)
        assert done.returncode == 0 and "has finished" in done.stderr, done.stderr
        assert on_server(workspace, run_id) == before


def test_an_older_folder_put_back_resumes_to_equal_bits(workspace: Workspace) -> None:
    resume_from_copies(workspace, 2, random.Random())


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_many_older_folders_put_back_resume_to_equal_bits(workspace: Workspace, seed: int) -> None:
    resume_from_copies(workspace, 10, random.Random(seed))
    sys.stdout.write("10 folders put back: each point once, equal bits\n")


def kill_both_in_the_first_second(workspace: Workspace, delays: list[float]) -> None:
    """Kills the training and its courier so long after a run is visible; the run can be resumed."""
    known: set[str] = set()
    for delay in delays:
        process = workspace.start(*WORDS, "--register", "none", SLEEP_SECONDS="0.05")
        run_id = visible(workspace, known)
        couriers = running_couriers(workspace.folder / ".runback")
        time.sleep(delay)
        for pid in (process.pid, *map(int, couriers)):
            os.kill(pid, signal.SIGKILL)
        ended(process)
        wait_until(lambda pids=couriers: not any(alive(int(pid)) for pid in pids), SECONDS)
        done = workspace.runback("resume", run_id, SLEEP_SECONDS="0")
        assert done.returncode == 0, f"killed after {delay:.3f} s: {done.stderr}"
        check_described(workspace, run_id)
        known.add(run_id)
    assert {run.info.status for run in workspace.client.search_runs(["0"])} == {"FINISHED"}


def check_described(workspace: Workspace, run_id: str) -> None:
    """Params, dataset inputs, split, source and environment: what makes a run whole."""
    run = workspace.client.get_run(run_id)
    assert run.data.params["epochs"] == str(EPOCHS)
    assert {tag.value for i in run.inputs.dataset_inputs for tag in i.tags} == {
        "training", "validation", "test",
    }  # fmt: skip
    names = {file.path for file in workspace.client.list_artifacts(run_id)}
    assert {"split.json", "source", "environment", "checkpoints"} <= names
    steps = sorted(step for key, step in published(workspace, run_id) if key == "cost")
    assert steps == list(range(1, EPOCHS + 1))


def test_a_run_killed_in_its_first_moment_can_be_whole(workspace: Workspace) -> None:
    kill_both_in_the_first_second(workspace, [0.0, 0.03, 0.3])
    run = workspace.client.search_runs(["0"])[0].info.run_id
    done = workspace.runback("evaluate", run)
    assert done.returncode == 0, done.stderr


@pytest.mark.chaos
def test_30_runs_killed_in_their_first_second_can_be_whole(workspace: Workspace) -> None:
    kill_both_in_the_first_second(workspace, [random.uniform(0.0, 1.0) for _ in range(30)])
    sys.stdout.write("30 runs killed with their courier in the first second: all whole\n")


def test_a_resume_posts_the_split_and_source_that_are_missing(workspace: Workspace) -> None:
    """Of a run of an older version, or whose upload was lost."""
    done = workspace.runback(*WORDS, "--register", "none", SLEEP_SECONDS="0")
    run_id = done.stdout.strip()
    folder = Path(workspace.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    split = (folder / "split.json").read_bytes()
    source = (folder / "source" / "noisy.py").read_bytes()
    (folder / "split.json").unlink()
    shutil.rmtree(folder / "source")
    done = workspace.runback("resume", run_id, "--epochs", str(EPOCHS + 2), SLEEP_SECONDS="0")
    assert done.returncode == 0, done.stderr
    assert (folder / "split.json").read_bytes() == split
    assert (folder / "source" / "noisy.py").read_bytes() == source
