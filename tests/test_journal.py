"""The journal: recorded points are read bit-equal and once, whatever fails in between."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import PROGRAMS
from runback.errors import JournalError
from runback.storage.journal import Journal, Point

values = st.floats(allow_nan=True, allow_infinity=True, width=64)
steps = st.integers(1, 30)
recordings = st.lists(st.tuples(steps, st.sampled_from(["cost", "val_cost", "lr"]), values))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "run" / "journal.db")
    yield opened
    opened.close()


def bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("<d", value)


def everything(journal: Journal) -> dict[tuple[str, int], bytes]:
    return {
        (p.key, p.step): bits(p.value)
        for key in ("cost", "val_cost", "lr")
        for p in journal.points(key)
    }


@given(recordings, st.integers(1, 7))
@example([(1, "cost", -0.0), (2, "cost", 3.0), (3, "cost", 2.0**60)], 1)
@settings(max_examples=60, deadline=None)
def test_the_first_value_of_each_point_is_kept(
    tmp_path_factory: pytest.TempPathFactory, recorded: list[tuple[int, str, float]], every: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    journal, expected = Journal(path), {}
    for index, (step, key, value) in enumerate(recorded):
        journal.record([(key, value)], step)
        expected.setdefault((key, step), bits(value))
        if index % every == 0:
            journal.flush(durable=index % 2 == 0)
    journal.close()

    again = Journal(path)
    assert everything(again) == expected
    points, last = again.undelivered_metrics(1000)
    assert len(points) == len(expected)
    again.acknowledge_metrics(last)
    assert again.undelivered_metrics(1000) == ([], 0)
    again.close()


@given(st.lists(values, min_size=1, max_size=10), st.lists(values, min_size=1, max_size=10))
@settings(max_examples=40, deadline=None)
def test_repeated_values_are_compared_not_replaced(
    tmp_path_factory: pytest.TempPathFactory, first: list[float], second: list[float]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    for values_now in (first, second):
        journal = Journal(path)
        for step, value in enumerate(values_now, start=1):
            journal.reach(step)
            journal.record([("cost", value)], step)
        journal.flush()
        found = {m.step for m in journal.mismatches}
        journal.close()
    expected = {
        step
        for step, (a, b) in enumerate(zip(first, second, strict=False), start=1)
        if not (a == b or (math.isnan(a) and math.isnan(b)))
    }
    assert found == expected
    with contextlib.closing(Journal(path)) as again:
        kept = [p.value for p in again.points("cost")]
    longest = first + second[len(first) :]
    assert [bits(v) for v in kept] == [bits(v) for v in longest]


@given(
    st.dictionaries(steps, values, max_size=12),
    st.dictionaries(steps, values, max_size=12),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_adopted_points_count_as_delivered(
    tmp_path_factory: pytest.TempPathFactory,
    here: dict[int, float],
    there: dict[int, float],
    delivered: int,
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.db")
    for step, value in here.items():
        journal.record([("cost", value)], step)
    journal.flush()
    _, last = journal.undelivered_metrics(delivered)
    journal.acknowledge_metrics(last)
    waiting_before = {p.step for p in journal.undelivered_metrics(1000)[0]}

    journal.adopt(Point("cost", step, value, 10_000 + step) for step, value in there.items())

    assert {p.step for p in journal.undelivered_metrics(1000)[0]} == waiting_before - there.keys()
    found = {p.step: (bits(p.value), p.timestamp) for p in journal.points("cost")}
    assert found.keys() == here.keys() | there.keys()
    for step, value in there.items():
        assert found[step] == (bits(value), 10_000 + step)
    journal.close()


def test_reached_is_written_with_the_points_of_a_flush(journal: Journal) -> None:
    for step in (1, 2, 3):
        journal.reach(step)
        journal.record([("loss", 0.5)], step)
    assert journal.reached() == 3
    with contextlib.closing(Journal(journal.path)) as before:
        assert before.reached() == 0
    journal.flush()
    with contextlib.closing(Journal(journal.path)) as after:
        assert after.reached() == 3


def test_a_step_without_metrics_is_reached_too(journal: Journal) -> None:
    journal.reach(5)
    journal.flush()
    with contextlib.closing(Journal(journal.path)) as again:
        assert again.reached() == 5


def test_reached_never_falls(journal: Journal) -> None:
    """A resumed run trains again what came after its checkpoint."""
    journal.reach(9)
    journal.flush()
    with contextlib.closing(Journal(journal.path)) as again:
        again.reach(4)
        again.record([("loss", 0.5)], 4)
        again.flush()
        assert again.reached() == 9
    with contextlib.closing(Journal(journal.path)) as last:
        assert last.reached() == 9


def test_reached_is_the_largest_adopted_step(journal: Journal) -> None:
    journal.reach(2)
    journal.adopt([Point("loss", 7, 0.5, 1), Point("lr", 3, 0.1, 1)])
    assert journal.reached() == 7
    with contextlib.closing(Journal(journal.path)) as again:
        assert again.reached() == 7
    journal.record([("loss", 0.25)], 7)
    journal.flush()
    assert [(m.recorded, m.retrained) for m in journal.mismatches] == [(0.5, 0.25)]
    journal.adopt([])
    assert journal.reached() == 7


@pytest.mark.parametrize("first", [1, 201], ids=["run", "fork"])
def test_an_incomplete_last_step_is_not_reached(journal: Journal, first: int) -> None:
    costs = [Point("cost", step, 0.5, 1) for step in range(first, first + 200)]
    others = [Point("val_cost", point.step, 0.5, 1) for point in costs[:-1]]
    journal.adopt([*costs, *others, Point("lr", first, 0.1, 1)])
    assert journal.reached() == first + 198


def test_reached_is_not_written_where_the_flush_fails(journal: Journal) -> None:
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    for step in range(1, 2001):
        journal.reach(step)
        journal.record([("loss", float(step))], step)
    with pytest.raises(JournalError, match="full"):
        journal.flush()
    with contextlib.closing(Journal(journal.path)) as again:
        assert (again.reached(), again.points("loss")) == (0, [])
    journal._db.execute("PRAGMA max_page_count = 100000")
    journal.flush()
    with contextlib.closing(Journal(journal.path)) as again:
        assert again.reached() == 2000


def test_a_point_keeps_the_timestamp_of_its_first_recording(journal: Journal) -> None:
    journal.record([("cost", 1.0)], 1)
    journal.flush()
    (first,) = journal.points("cost")
    journal.record([("cost", 1.0)], 1)
    journal.flush()
    assert journal.points("cost") == [first]


def test_a_full_journal_disk_loses_nothing(journal: Journal) -> None:
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    for step in range(1, 2001):
        journal.record([("cost", float(step))], step)
    with pytest.raises(JournalError, match=r"journal\.db cannot be used: .*full"):
        journal.flush()
    with pytest.raises(JournalError, match="full"):
        journal.set_fact("status", ["FAILED", "x" * 10_000])
    journal._db.execute("PRAGMA max_page_count = 100000")  # now there is room
    journal.record([("cost", 2001.0)], 2001)
    journal.flush()
    assert [p.value for p in journal.points("cost")] == [float(n) for n in range(1, 2002)]


def test_an_exception_during_a_flush_loses_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signal(BaseException):
        pass

    def interrupted(*_: object) -> None:
        raise Signal

    journal.record([("cost", 1.0), ("val_cost", math.inf)], 1)
    with monkeypatch.context() as patch:
        patch.setattr("runback.storage.journal._stored", interrupted)
        with pytest.raises(Signal):
            journal.flush()
    journal.record([("cost", 2.0)], 2)
    journal.flush()
    assert [p.value for p in journal.points("cost")] == [1.0, 2.0]
    assert [p.value for p in journal.points("val_cost")] == [math.inf]
    assert journal.non_finite is not None and journal.non_finite.key == "val_cost"


def test_recording_and_flushing_on_two_threads_loses_nothing(journal: Journal) -> None:
    done = threading.Event()

    def flush_all_the_time() -> None:
        while not done.is_set():
            journal.flush(durable=True)

    thread = threading.Thread(target=flush_all_the_time)
    thread.start()
    for step in range(1, 20_001):
        journal.record([("cost", float(step))], step)
        journal.flush_if_due()
    done.set()
    thread.join()
    journal.flush()
    assert len(journal.points("cost")) == 20_000


def test_flushed_points_survive_sigkill(tmp_path: Path) -> None:
    program, path = PROGRAMS / "record_until_killed.py", tmp_path / "journal.db"
    process = subprocess.Popen([sys.executable, program, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    flushed = [int(process.stdout.readline()) for _ in range(3)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    flushed = max([flushed, *map(int, process.stdout.read().split())])
    process.stdout.close()
    with contextlib.closing(Journal(path)) as journal:
        found = [(p.step, p.value) for p in journal.points("cost")]
    assert found == [(step, step / 3) for step in range(1, len(found) + 1)]
    assert len(found) >= flushed - 1  # a step is printed after its flush


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be read" * 50])
def test_a_damaged_journal_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=f"{path} cannot be opened as a journal") as caught:
        Journal(path)
    open_files = {os.path.realpath(file) for file in Path("/proc/self/fd").glob("*")}
    assert caught.value and str(path) not in open_files


def test_the_outbox_keeps_order_and_retries_refusals(journal: Journal) -> None:
    for name in ("a", "b", "c"):
        journal.post("artifact", file=name, artifact_path="plots", sha256="")
    first = journal.next_item()
    assert first is not None and first.payload["file"] == "a"
    journal.settle(first)
    second = journal.next_item()
    assert second is not None
    journal.settle(second, refused="b: no")
    assert journal.refusals() == ["b: no"]
    assert journal.waiting() == {"metrics": 0, "items": 1, "refused": 1}
    journal.retry_refused()
    again = journal.next_item()
    assert again is not None and again.payload["file"] == "b"


def test_a_later_entry_supersedes_an_earlier_one(journal: Journal) -> None:
    journal.post("artifact", file="checkpoints/x.pt", artifact_path="checkpoints", sha256="1")
    item = journal.next_item()
    assert item is not None and not journal.is_superseded(item)
    journal.post("artifact", file="checkpoints/y.pt", artifact_path="checkpoints", sha256="1")
    journal.post("delete", path="checkpoints/y.pt")
    assert not journal.is_superseded(item)
    journal.post("delete", path="checkpoints/x.pt")
    assert journal.is_superseded(item)


def test_facts_are_stored_together_or_not_at_all(journal: Journal) -> None:
    journal.set_facts({"status": ["KILLED", ""], "ended_ms": 5})
    with pytest.raises(TypeError):
        journal.set_facts({"status": ["FAILED", ""], "ended_ms": object()})
    assert journal.fact("status") == ["KILLED", ""]
    assert journal.fact("nothing", 7) == 7


def test_flush_if_due_never_waits_for_another_flush(journal: Journal) -> None:
    journal._flushed = 0.0
    with journal._lock:
        assert journal.flush_if_due() is False
    assert journal.flush_if_due() is True


def test_two_processes_share_the_file(tmp_path: Path) -> None:
    writer, reader = Journal(tmp_path / "j.db", tidy=False), Journal(tmp_path / "j.db")
    writer.record([("cost", 1.0)], 1)
    writer.flush()
    points, last = reader.undelivered_metrics(10)
    reader.acknowledge_metrics(last)
    writer.record([("cost", 2.0)], 2)
    writer.flush()
    assert [p.step for p in points] == [1]
    assert [p.step for p in reader.undelivered_metrics(10)[0]] == [2]
    writer.close(), reader.close()
    with sqlite3.connect(tmp_path / "j.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
