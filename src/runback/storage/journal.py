"""The journal: one SQLite file per run with everything to be delivered to MLflow.

Metrics are unique by (key, step) and keep the timestamp of the first recording, so that sending a
point twice has no effect. Artifacts, tags and the model are entries of an ordered outbox. The loop
appends to memory; a flush, periodically and before each checkpoint, writes to the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.errors import JournalError
from runback.storage.atomic import sha256_of

FLUSH_SECONDS = 0.05
_SHORTEST_BATCH = 100  # steps; far fewer than a batch of 1000 points has
READ_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL, step INTEGER NOT NULL,
    value,                          -- NULL is NaN; a REAL column would turn -0.0 into 0.0
    timestamp INTEGER NOT NULL,     -- ms since the epoch, of the first recording
    UNIQUE (key, step)
);
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,          -- JSON
    state TEXT NOT NULL DEFAULT 'waiting',  -- waiting, delivered, refused
    reason TEXT NOT NULL DEFAULT ''         -- why it was refused
);
CREATE INDEX IF NOT EXISTS waiting ON outbox (id) WHERE state = 'waiting';
"""
_INSERT = "INSERT OR IGNORE INTO metrics (key, step, value, timestamp) VALUES (?, ?, ?, ?)"
_REPLACE = (
    "INSERT INTO metrics (key, step, value, timestamp) VALUES (?, ?, ?, ?) ON CONFLICT (key, step) "
    "DO UPDATE SET value = excluded.value, timestamp = excluded.timestamp"
)
_SET_FACT = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
_RAISE_FACT = (
    "INSERT INTO facts VALUES (?, ?) ON CONFLICT (key) "
    "DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"
)


@dataclass(frozen=True, slots=True)
class Point:
    """One metric value. `timestamp` is in milliseconds since the epoch."""

    key: str
    step: int
    value: float
    timestamp: int


def recorded_keys(path: Path, step: int) -> set[str]:
    """The metrics that a journal has of a step, read without writing to its file or folder.

    Raises:
        JournalError: the file cannot be read as a journal.
    """
    with _read_only(path) as db:
        rows = db.execute("SELECT DISTINCT key FROM metrics WHERE step = ?", (step,))
        return {str(row[0]) for row in rows}


@dataclass(frozen=True, slots=True)
class Unsent:
    """What a journal still has to deliver.

    Attributes:
        status: in which the training has ended; empty if it has not reported an end.
    """

    points: int
    items: int
    refused: int
    status: str


def unsent(path: Path) -> Unsent:
    """What a journal still has to deliver, read without writing to its file or folder.

    Raises:
        JournalError: the file cannot be read as a journal.
    """
    with _read_only(path) as db:
        facts = dict(
            db.execute("SELECT key, value FROM facts WHERE key IN ('status', 'acknowledged')")
        )
        after = (int(facts.get("acknowledged", 0)),)
        points = db.execute("SELECT count(*) FROM metrics WHERE id > ?", after).fetchone()[0]
        states = dict(db.execute("SELECT state, count(*) FROM outbox GROUP BY state"))
    ended = json.loads(facts.get("status", "null")) or [""]
    return Unsent(points, states.get("waiting", 0), states.get("refused", 0), str(ended[0]))


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A journal's database without the right to write.

    Raises:
        JournalError: the file cannot be read as a journal.
    """
    try:
        log = path.with_name(f"{path.name}-wal")
        # A read-only folder cannot hold the shared memory of a write-ahead log; an empty log has none.
        is_whole = not log.exists() or log.stat().st_size == 0
        options = "mode=ro&immutable=1" if is_whole else "mode=ro"
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=READ_SECONDS)
        ) as db:
            yield db
    except (sqlite3.Error, OSError, ValueError) as error:
        raise JournalError(f"{path} cannot be read as a journal: {error}") from error


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the outbox."""

    id: int
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A point whose retrained value differs from the recorded one."""

    key: str
    step: int
    recorded: float
    retrained: float


class Journal:
    """A run's journal, used by the training process and by the courier. Thread-safe.

    Args:
        path: of the file, created if missing.
        tidy: whether this process may checkpoint SQLite's write-ahead log, which takes an fsync;
            the loop leaves that to the courier.

    Attributes:
        mismatches: retrained values that differ from the recorded ones, found by flushes.
        non_finite: the first NaN or infinity found by a flush; None if there is none.

    Raises:
        JournalError: from every method: the file is not a journal, is damaged, or the disk is full.
    """

    def __init__(self, path: Path, *, tidy: bool = True) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pending: list[tuple[str, int, float, int]] = []
        self._flushed = time.monotonic()
        self.mismatches: list[Mismatch] = []
        self.non_finite: Point | None = None
        self._db = self._opened(tidy)
        self._reached = self._written = self._retrained_until = int(self.fact("reached", 0))

    # What the training process writes

    def reach(self, step: int) -> None:
        """Marks a step as completed, in memory; the next flush writes it.

        Call it before `record`, so that no flush contains points of a step that is not reached. A
        step below the largest one so far has no effect.
        """
        self._reached = max(self._reached, step)

    def reached(self) -> int:
        """The largest completed step, trained or adopted; 0 before the first."""
        return self._reached

    def record(self, values: Iterable[tuple[str, float]], step: int) -> None:
        """Adds metric values of a step, in memory; the next flush writes them."""
        now = time.time_ns() // 1_000_000
        self._pending.extend([(key, step, value, now) for key, value in values])

    def flush_if_due(self) -> bool:
        """Flushes if `FLUSH_SECONDS` have passed since the last flush; returns whether it did.

        Returns False at once while another thread is writing.
        """
        if time.monotonic() - self._flushed < FLUSH_SECONDS or self._lock.locked():
            return False
        self.flush()
        return True

    def flush(self, *, durable: bool = False) -> None:
        """Writes the pending values: safe from a crash and, if `durable`, from a power loss."""
        with self._database() as db:
            # Written values are removed from the same list afterwards: another thread may append
            # meanwhile, and a failure or a signal in between loses nothing.
            pending = self._pending[:]
            self._flushed = time.monotonic()
            if pending or durable or self._reached > self._written:
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._insert(pending)
            del self._pending[: len(pending)]

    def post(self, kind: str, **payload: Any) -> None:
        """Adds an entry to the outbox, after all metrics recorded so far."""
        self.flush()
        text = json.dumps(payload, sort_keys=True)
        with self._database() as db:
            db.execute("INSERT INTO outbox (kind, payload) VALUES (?, ?)", (kind, text))

    def post_file(self, root: Path, file: Path, artifact_path: str) -> None:
        """Adds a file below the run's folder `root` to the outbox, with its digest."""
        name, digest = str(file.relative_to(root)), sha256_of(file)
        self.post("artifact", file=name, artifact_path=artifact_path, sha256=digest)

    def set_fact(self, key: str, value: Any) -> None:
        """Stores a JSON value under a key, replacing the previous one."""
        self.set_facts({key: value})

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Stores several facts in one transaction."""
        rows = [(key, json.dumps(value)) for key, value in facts.items()]
        with self._transaction() as db:
            db.executemany(_SET_FACT, rows)

    def fact(self, key: str, default: Any = None) -> Any:
        """The value stored under a key, or `default`."""
        with self._database() as db:
            row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def adopt(self, points: Iterable[Point]) -> None:
        """Adds published points as recorded and acknowledged; raises `reached` to the last step that
        was published completely.

        A published value or timestamp replaces a different local one; other undelivered points
        stay undelivered.
        """
        published = [(p.key, p.step, _stored(p.value), p.timestamp) for p in points]
        with self._transaction() as db:
            after = (self._acknowledged(),)
            waiting = db.execute(
                "SELECT key, step, value, timestamp FROM metrics WHERE id > ? ORDER BY id", after
            ).fetchall()
            db.execute("DELETE FROM metrics WHERE id > ?", after)
            db.executemany(_REPLACE, published)
            db.execute(_SET_FACT, ("acknowledged", str(self._last_id())))
            db.executemany(_INSERT, waiting)
            self.reach(_last_complete(published))
            db.execute(_RAISE_FACT, ("reached", str(self._reached)))
        self._retrained_until = self._written = self._reached

    def is_behind(self, last_points: Mapping[str, tuple[int, int]]) -> bool:
        """Whether a published point is missing here.

        Args:
            last_points: step and timestamp of the latest published point of each metric. Points are
                published in order, so that the earlier ones are here if these are.
        """
        return any(
            self._timestamp(key, step) != timestamp
            for key, (step, timestamp) in last_points.items()
        )

    def resend_lost(self, last_points: Mapping[str, tuple[int, int]]) -> bool:
        """Sets all points to undelivered if the server has lost some that it confirmed, such as one
        restored from a backup; sending a point twice has no effect. Returns whether it did.
        """
        with self._database() as db:
            rows = db.execute(
                "SELECT key, max(step) FROM metrics WHERE id <= ? GROUP BY key",
                (self._acknowledged(),),
            ).fetchall()
        is_lost = any(step > last_points.get(key, (-1, 0))[0] for key, step in rows)
        if is_lost:
            self.acknowledge_metrics(0)
        return is_lost

    def has_posted(self, kind: str, folder: str = "") -> bool:
        """Whether an entry of a kind was ever added to the outbox, for files: to an artifact folder."""
        with self._database() as db:
            row = db.execute(
                "SELECT 1 FROM outbox WHERE kind = ? AND "
                "(? = '' OR json_extract(payload, '$.artifact_path') = ?) LIMIT 1",
                (kind, folder, folder),
            ).fetchone()
        return row is not None

    def identity(self) -> str:
        """A unique ID of this file, which identifies the journal that wrote a run last."""
        if self.fact("identity") is None:
            self.set_fact("identity", uuid.uuid4().hex)
        return str(self.fact("identity"))

    # What the courier reads and acknowledges

    def undelivered_metrics(self, limit: int) -> tuple[list[Point], int]:
        """The oldest unacknowledged points, and the ID for `acknowledge_metrics`."""
        with self._database() as db:
            rows = db.execute(
                "SELECT key, step, value, timestamp, id FROM metrics WHERE id > ? ORDER BY id LIMIT ?",
                (self._acknowledged(), limit),
            ).fetchall()
        return [_point(row[:4]) for row in rows], rows[-1][4] if rows else 0

    def sync(self) -> None:
        """Syncs everything read or written so far to disk.

        Unlike a durable flush it takes no SQLite lock, so the loop's flushes do not wait. Opening
        and closing the write-ahead log is safe: SQLite locks the other two files.
        """
        try:
            handle = os.open(f"{self.path}-wal", os.O_RDONLY)
        except FileNotFoundError:  # the log was checkpointed, which syncs the file
            return
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def acknowledge_metrics(self, last_id: int) -> None:
        """Marks all points up to an ID as delivered."""
        self.set_fact("acknowledged", last_id)

    def next_item(self) -> Item | None:
        """The oldest waiting entry of the outbox."""
        with self._database() as db:
            row = db.execute(
                "SELECT id, kind, payload FROM outbox WHERE state = 'waiting' ORDER BY id LIMIT 1"
            ).fetchone()
        return None if row is None else Item(row[0], row[1], json.loads(row[2]))

    def settle(self, item: Item, refused: str = "") -> None:
        """Marks an entry as delivered, or as refused with the reason."""
        state = "refused" if refused else "delivered"
        with self._database() as db:
            db.execute(
                "UPDATE outbox SET state = ?, reason = ? WHERE id = ?", (state, refused, item.id)
            )

    def delivered_files(self) -> list[Item]:
        """The delivered file entries that no later entry replaces or deletes."""
        return [item for item in self._files("delivered") if not self.is_superseded(item)]

    def waiting_files(self) -> list[Item]:
        """The undelivered file entries, the oldest first."""
        return self._files("waiting")

    def send_again(self, item: Item) -> None:
        """Sets a delivered entry to waiting."""
        with self._database() as db:
            db.execute("UPDATE outbox SET state = 'waiting' WHERE id = ?", (item.id,))

    def last_item(self) -> int:
        """The ID of the newest entry of the outbox; 0 if it is empty."""
        with self._database() as db:
            return db.execute("SELECT max(id) FROM outbox").fetchone()[0] or 0

    def refusals(self) -> list[str]:
        """The reasons of refused entries, the oldest first."""
        with self._database() as db:
            rows = db.execute("SELECT reason FROM outbox WHERE state = 'refused' ORDER BY id")
            return [row[0] for row in rows]

    def retry_refused(self) -> None:
        """Sets refused entries to waiting again."""
        with self._database() as db:
            db.execute("UPDATE outbox SET state = 'waiting' WHERE state = 'refused'")

    def is_superseded(self, item: Item) -> bool:
        """Whether a later entry sends the same file again, or deletes its artifact."""
        file, folder = item.payload["file"], item.payload["artifact_path"]
        path = f"{folder}/{Path(file).name}" if folder else Path(file).name
        with self._database() as db:
            row = db.execute(
                "SELECT 1 FROM outbox WHERE id > ? AND (kind = 'artifact' AND "
                "json_extract(payload, '$.file') = ? OR kind = 'delete' AND "
                "json_extract(payload, '$.path') = ?) LIMIT 1",
                (item.id, file, path),
            ).fetchone()
        return row is not None

    def waiting(self) -> dict[str, int]:
        """The undelivered counts: `metrics` (points), `items` (outbox entries), `refused`."""
        with self._database() as db:
            points = db.execute(
                "SELECT count(*) FROM metrics WHERE id > ?", (self._acknowledged(),)
            ).fetchone()[0]
            count = dict(db.execute("SELECT state, count(*) FROM outbox GROUP BY state"))
        return {
            "metrics": points,
            "items": count.get("waiting", 0),
            "refused": count.get("refused", 0),
        }

    def points(self, key: str) -> list[Point]:
        """All points of one metric, by step."""
        with self._database() as db:
            rows = db.execute(
                "SELECT key, step, value, timestamp FROM metrics WHERE key = ? ORDER BY step",
                (key,),
            ).fetchall()
        return [_point(row) for row in rows]

    def points_at(self, step: int) -> list[Point]:
        """All points of one step."""
        with self._database() as db:
            keys = [row[0] for row in db.execute("SELECT DISTINCT key FROM metrics")]
            rows = [
                db.execute(
                    "SELECT key, step, value, timestamp FROM metrics WHERE key = ? AND step = ?",
                    (key, step),
                ).fetchone()
                for key in keys
            ]
        return [_point(row) for row in rows if row is not None]

    def check(self) -> None:
        """Raises a JournalError if the file is damaged."""
        with self._database() as db:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise JournalError(f"{self.path} is damaged: {found}")

    def close(self) -> None:
        """Flushes and closes the file."""
        try:
            self.flush()
        finally:
            with self._lock:
                self._db.close()

    # Internal; methods that use `_db` directly require the lock

    def _opened(self, tidy: bool) -> sqlite3.Connection:
        with contextlib.ExitStack() as on_error:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                db = sqlite3.connect(
                    self.path, timeout=30.0, check_same_thread=False, isolation_level=None
                )
                on_error.callback(db.close)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                if not tidy:
                    db.execute("PRAGMA wal_autocheckpoint = 0")
                db.executescript(_SCHEMA)
            except (sqlite3.Error, OSError) as error:
                raise JournalError(f"{self.path} cannot be opened as a journal: {error}") from error
            on_error.pop_all()
            return db

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise JournalError(f"{self.path} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database() as db, _atomically(db):
            yield db

    def _insert(self, pending: list[tuple[str, int, float, int]]) -> None:
        rows = [(key, step, _stored(value), ms) for key, step, value, ms in pending]
        again = [point for point in pending if point[1] <= self._retrained_until]
        with _atomically(self._db):
            reached = self._reached
            self._db.execute(_RAISE_FACT, ("reached", str(reached)))
            compared = [self._compared(key, step, value) for key, step, value, _ in again]
            self._db.executemany(_INSERT, rows)
            # A commit that changes nothing would not be synced to the disk.
            self._db.execute(_SET_FACT, ("flushed", str(time.time())))
        self._written = reached
        self.mismatches += [mismatch for mismatch in compared if mismatch is not None]
        if self.non_finite is None:
            non_finite = (point for point in pending if not math.isfinite(point[2]))
            self.non_finite = next((Point(*point) for point in non_finite), None)

    def _compared(self, key: str, step: int, value: float) -> Mismatch | None:
        row = self._db.execute(
            "SELECT value FROM metrics WHERE key = ? AND step = ?", (key, step)
        ).fetchone()
        if row is None or row[0] == _stored(value):
            return None
        return Mismatch(key, step, _loaded(row[0]), value)

    def _files(self, state: str) -> list[Item]:
        with self._database() as db:
            rows = db.execute(
                "SELECT id, kind, payload FROM outbox WHERE kind = 'artifact' AND state = ? "
                "ORDER BY id",
                (state,),
            ).fetchall()
        return [Item(row[0], row[1], json.loads(row[2])) for row in rows]

    def _timestamp(self, key: str, step: int) -> int | None:
        with self._database() as db:
            row = db.execute(
                "SELECT timestamp FROM metrics WHERE key = ? AND step = ?", (key, step)
            ).fetchone()
        return None if row is None else int(row[0])

    def _acknowledged(self) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE key = 'acknowledged'").fetchone()
        return 0 if row is None else int(row[0])

    def _last_id(self) -> int:
        row = self._db.execute("SELECT max(id) FROM metrics").fetchone()
        return row[0] or 0


def _last_complete(points: Iterable[tuple[str, int, Any, int]]) -> int:
    """The last step whose points are all there.

    Points are published in the order of their steps, in batches of many steps, so that only the
    last step of a long training can be incomplete: if a metric with a value in each step before has
    none in the last one. The first step of a fork is not 1.
    """
    steps: dict[str, set[int]] = {}
    for key, step, _, _ in points:
        steps.setdefault(key, set()).add(step)
    last = max((max(found) for found in steps.values()), default=0)
    first = min((min(found) for found in steps.values() if len(found) > 1), default=1)
    is_incomplete = any(found == set(range(first, last)) for found in steps.values())
    return last - 1 if is_incomplete and last > _SHORTEST_BATCH else last


@contextmanager
def _atomically(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite rolls back by itself on a full disk
            db.execute("ROLLBACK")
        raise


def _point(row: tuple[str, int, float | None, int]) -> Point:
    key, step, value, timestamp = row
    return Point(key, step, _loaded(value), timestamp)


def _stored(value: float) -> float | None:
    return None if math.isnan(value) else value


def _loaded(value: float | None) -> float:
    return math.nan if value is None else value
