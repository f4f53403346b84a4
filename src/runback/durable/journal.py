"""The journal: one SQLite file per run that holds every fact on its way to MLflow.

Metrics are unique by (key, step) and keep the timestamp of their first recording, so that a point
sent twice is the same point. Everything else (artifacts, tags, the model) is an ordered outbox.
The loop appends to memory; a flush by time, and before each checkpoint, writes it down.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.errors import JournalError

FLUSH_SECONDS = 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL, step INTEGER NOT NULL,
    value REAL,                     -- NULL is NaN, which SQLite cannot store
    timestamp INTEGER NOT NULL,     -- ms since the epoch, of the first recording
    UNIQUE (key, step)
);
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,          -- JSON
    state TEXT NOT NULL DEFAULT 'waiting'   -- waiting, delivered, refused
);
CREATE INDEX IF NOT EXISTS waiting ON outbox (id) WHERE state = 'waiting';
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One metric value. `timestamp` is in milliseconds since the epoch."""

    key: str
    step: int
    value: float
    timestamp: int


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the outbox."""

    id: int
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A point that was trained again and came out differently: determinism broke."""

    key: str
    step: int
    recorded: float
    retrained: float


class Journal:
    """A run's journal, for its one writer or for the courier.

    Safe to use from several threads.

    Raises:
        JournalError: the file is no journal, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, timeout=30.0, check_same_thread=False, isolation_level=None
        )
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise JournalError(f"{path} cannot be opened: {error}") from error
        self._pending: list[tuple[str, int, float, int]] = []
        self._flushed = time.monotonic()
        self._retrained_until = self._last_step()
        self.mismatches: list[Mismatch] = []

    # What the training process writes

    def record(self, values: Iterable[tuple[str, float]], step: int) -> None:
        """Notes metric values of a step in memory; a flush writes them down."""
        now = time.time_ns() // 1_000_000
        self._pending.extend((key, step, value, now) for key, value in values)

    def flush_if_due(self) -> bool:
        """Flushes when `FLUSH_SECONDS` have passed since the last flush; says whether it did."""
        if time.monotonic() - self._flushed < FLUSH_SECONDS:
            return False
        self.flush()
        return True

    def flush(self, *, durable: bool = False) -> None:
        """Writes down what is in memory: safe from a crash, and with `durable` from a power cut."""
        with self._lock:
            pending, self._pending = self._pending, []
            self._flushed = time.monotonic()
            if durable:
                self._db.execute("PRAGMA synchronous = FULL")
            try:
                if pending or durable:
                    self._insert(pending)
            except sqlite3.Error as error:
                self._pending = pending + self._pending
                raise JournalError(f"{self.path} cannot be written: {error}") from error
            finally:
                if durable:
                    self._db.execute("PRAGMA synchronous = NORMAL")

    def post(self, kind: str, **payload: Any) -> None:
        """Adds an entry to the outbox, after all metrics recorded so far."""
        self.flush()
        text = json.dumps(payload, sort_keys=True)
        with self._lock:
            self._db.execute("INSERT INTO outbox (kind, payload) VALUES (?, ?)", (kind, text))

    def set_fact(self, key: str, value: Any) -> None:
        """Stores a JSON value under a key, replacing what was there."""
        text = json.dumps(value)
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, text))

    def fact(self, key: str, default: Any = None) -> Any:
        """The value stored under a key."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def adopt(self, points: Iterable[Point]) -> None:
        """Takes over points that are already published, as recorded and acknowledged."""
        rows = [(p.key, p.step, _stored(p.value), p.timestamp) for p in points]
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_INSERT, rows)
            self._db.execute("COMMIT")
        self.acknowledge_metrics(self._last_id())
        self._retrained_until = self._last_step()

    def identity(self) -> str:
        """This file's own name, made once: it tells which machine's journal wrote a run last."""
        if self.fact("identity") is None:
            self.set_fact("identity", uuid.uuid4().hex)
        return str(self.fact("identity"))

    def is_empty(self) -> bool:
        """Whether no metric was ever recorded."""
        return self.last_step() == 0

    def last_step(self) -> int:
        """The last epoch with a recorded cost; 0 before the first."""
        return self._last_step()

    # What the courier reads and acknowledges

    def undelivered_metrics(self, limit: int) -> tuple[list[Point], int]:
        """The oldest points that no server has acknowledged, and the ID to acknowledge them with."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key, step, value, timestamp, id FROM metrics WHERE id > ? ORDER BY id LIMIT ?",
                (self._acknowledged(), limit),
            ).fetchall()
        points = [Point(key, step, _loaded(value), ms) for key, step, value, ms, _ in rows]
        return points, rows[-1][4] if rows else 0

    def acknowledge_metrics(self, last_id: int) -> None:
        """Notes that all points up to an ID have arrived."""
        self.set_fact("acknowledged", last_id)

    def next_item(self) -> Item | None:
        """The oldest waiting entry of the outbox."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, kind, payload FROM outbox WHERE state = 'waiting' ORDER BY id LIMIT 1"
            ).fetchone()
        return None if row is None else Item(row[0], row[1], json.loads(row[2]))

    def settle(self, item: Item, state: str = "delivered") -> None:
        """Notes that an entry has arrived, or was refused for good."""
        with self._lock:
            self._db.execute("UPDATE outbox SET state = ? WHERE id = ?", (state, item.id))

    def waiting(self) -> dict[str, int]:
        """How much has not arrived: metric points, outbox entries, and entries refused for good."""
        with self._lock:
            points = self._db.execute(
                "SELECT count(*) FROM metrics WHERE id > ?", (self._acknowledged(),)
            ).fetchone()[0]
            count = dict(self._db.execute("SELECT state, count(*) FROM outbox GROUP BY state"))
        return {
            "metrics": points,
            "items": count.get("waiting", 0),
            "refused": count.get("refused", 0),
        }

    def points(self, key: str) -> list[Point]:
        """All points of one metric, by step."""
        with self._lock:
            rows = self._db.execute(
                "SELECT key, step, value, timestamp FROM metrics WHERE key = ? ORDER BY step",
                (key,),
            ).fetchall()
        return [Point(k, step, _loaded(value), ms) for k, step, value, ms in rows]

    def points_at(self, step: int) -> list[Point]:
        """All points of one step."""
        with self._lock:
            keys = [row[0] for row in self._db.execute("SELECT DISTINCT key FROM metrics")]
            rows = [
                self._db.execute(
                    "SELECT key, step, value, timestamp FROM metrics WHERE key = ? AND step = ?",
                    (key, step),
                ).fetchone()
                for key in keys
            ]
        return [Point(r[0], r[1], _loaded(r[2]), r[3]) for r in rows if r is not None]

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        with self._lock:
            self._db.close()

    # Inside; the caller holds the lock

    def _insert(self, pending: list[tuple[str, int, float, int]]) -> None:
        rows = [(key, step, _stored(value), ms) for key, step, value, ms in pending]
        again = [row for row in pending if row[1] <= self._retrained_until]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for key, step, value, _ in again:
                self._compare(key, step, value)
            self._db.executemany(_INSERT, rows)
            self._db.execute(
                "INSERT OR REPLACE INTO facts VALUES ('flushed', ?)", (str(time.time()),)
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _compare(self, key: str, step: int, value: float) -> None:
        row = self._db.execute(
            "SELECT value FROM metrics WHERE key = ? AND step = ?", (key, step)
        ).fetchone()
        if row is not None and row[0] != _stored(value):
            self.mismatches.append(Mismatch(key, step, _loaded(row[0]), value))

    def _acknowledged(self) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE key = 'acknowledged'").fetchone()
        return 0 if row is None else int(row[0])

    def _last_step(self) -> int:
        row = self._db.execute("SELECT max(step) FROM metrics WHERE key = 'cost'").fetchone()
        return row[0] or 0

    def _last_id(self) -> int:
        row = self._db.execute("SELECT max(id) FROM metrics").fetchone()
        return row[0] or 0


_INSERT = "INSERT OR IGNORE INTO metrics (key, step, value, timestamp) VALUES (?, ?, ?, ?)"


def _stored(value: float) -> float | None:
    return None if math.isnan(value) else value


def _loaded(value: float | None) -> float:
    return math.nan if value is None else value
