"""Kills and outages on real trainings: nothing lost, nothing doubled, nothing left RUNNING.

The short versions run by default; `make chaos` runs the long ones.
"""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import Server, Workspace, wait_until
from tracking_parts import (
    check_delivered,
    ended,
    journal_points,
    quick,
    run_and_courier,
    start_trainer,
    status_of,
    training_run,
)

DETACHED_SECONDS = 30.0


@contextmanager
def outages(server: Server, run_begun, times: int) -> Iterator[list[tuple[float, float]]]:
    """Kills and restarts the server `times` times; yields the list of outages (start, end) in ms."""
    away: list[tuple[float, float]] = []

    def torment() -> None:
        run_begun.wait()
        for _ in range(times):
            time.sleep(random.uniform(0.2, 1.0))
            server.kill()
            begun = time.time() * 1000
            time.sleep(random.uniform(0.5, 1.5))
            away.append((begun, time.time() * 1000))
            server.start()

    thread = threading.Thread(target=torment)
    thread.start()
    yield away
    thread.join()


def survive_outages(remote: Workspace, server: Server, times: int) -> dict[str, float]:
    """Trains while the server is killed `times` times; returns the measurements."""
    begun = threading.Event()
    with outages(server, begun, times) as away:
        epochs = 15_000 if times < 5 else 12_000 * (times + 2)
        process = remote.start(
            *quick("--epochs", str(epochs), "--checkpoint-every", str(epochs // 20)),
            RUNBACK_DRAIN_SECONDS="600",
        )
        run_id = training_run(remote)
        begun.set()
    returned, errors = ended(process, 900)
    assert returned == 0, errors
    assert status_of(remote, run_id) == "FINISHED"
    points = check_delivered(remote, run_id)
    stamps = [stamp for _, _, stamp in journal_points(remote, run_id)["cost"]]
    assert len(stamps) == epochs
    return {"points": points, "kills": times, **outage_slowdown(stamps, away)}


def outage_slowdown(stamps: list[int], away: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds an epoch takes with the server and without it: medians over 50 ms windows."""
    windows: dict[bool, list[int]] = {True: [], False: []}
    counts: dict[int, int] = {}
    for stamp in stamps:
        counts[stamp // 50] = counts.get(stamp // 50, 0) + 1
    for window, count in counts.items():
        inside = [low <= window * 50 and window * 50 + 50 <= high for low, high in away]
        windows[any(inside)].append(count)
    with_server, without = (
        statistics.median(windows[k]) if windows[k] else 0 for k in (False, True)
    )
    result = {"ms_with": 50 / with_server if with_server else 0, "windows": len(windows[True])}
    return {**result, "ms_without": 50 / without if without else 0}


def test_server_outages_lose_and_slow_nothing(remote: Workspace, server: Server) -> None:
    figures = survive_outages(remote, server, 2)
    if figures["windows"] >= 5:  # else the training was over before the server was killed
        assert figures["ms_without"] < 3 * figures["ms_with"]


@pytest.mark.chaos
@pytest.mark.parametrize("times", [5, 20])
def test_many_server_outages_lose_and_slow_nothing(
    remote: Workspace, server: Server, times: int
) -> None:
    figures = survive_outages(remote, server, times)
    sys.stdout.write(f"{figures}\n")
    assert figures["windows"] >= 5
    assert figures["ms_without"] < 3 * figures["ms_with"]


def kill_at_random(workspace: Workspace, generator: random.Random, begun: bool) -> tuple[str, int]:
    """A real training killed by SIGKILL at a random moment; its final status and its points.

    The moment lies after the first points, or where not `begun`, after the making of the run.
    """
    before = {run.info.run_id for run in workspace.client.search_runs(["0"])}
    process = workspace.start(*quick("--epochs", "100000000", "--checkpoint-every", "500"))
    wait_until(lambda: len(workspace.client.search_runs(["0"])) > len(before), 120)
    (run_id,) = {run.info.run_id for run in workspace.client.search_runs(["0"])} - before
    if begun:
        wait_until(lambda: "cost" in workspace.client.get_run(run_id).data.metrics, 120)
    time.sleep(generator.uniform(0, 2.0))
    process.kill()
    wait_until(lambda: status_of(workspace, run_id) != "RUNNING", DETACHED_SECONDS)
    ended(process)
    return status_of(workspace, run_id), check_delivered(workspace, run_id)


def test_a_training_killed_at_random_is_delivered(workspace: Workspace) -> None:
    status, points = kill_at_random(workspace, random.Random(), begun=True)
    assert status == "FAILED" and points > 0


def test_processes_killed_at_random_are_delivered(workspace: Workspace) -> None:
    """Without torch, so that they start and are killed faster."""
    generator = random.Random()
    for _ in range(3):
        trainer = start_trainer(workspace, 100_000, 0.0002, "FINISHED")
        run_id, _ = run_and_courier(trainer)
        time.sleep(generator.uniform(0, 0.7))
        trainer.kill()
        wait_until(lambda run_id=run_id: status_of(workspace, run_id) == "FAILED", DETACHED_SECONDS)
        ended(trainer)
        check_delivered(workspace, run_id)


@pytest.mark.chaos
@pytest.mark.parametrize("times", [20, 200])
def test_many_trainings_killed_at_random_are_delivered(remote: Workspace, times: int) -> None:
    generator = random.Random()
    found = [kill_at_random(remote, generator, begun=index % 4 > 0) for index in range(times)]
    sys.stdout.write(f"{times} kills; points: {sorted(points for _, points in found)}\n")
    assert [status for status, _ in found] == ["FAILED"] * times
