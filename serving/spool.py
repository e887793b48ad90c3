"""A durable queue in a local SQLite file: what has to reach the ledger, kept until it has.

A click is in the file before its redirect is answered; auctions and impressions follow within a moment. Writers share
one commit (one fsync for all that came meanwhile). Reading and deleting is `serving.charging`'s, perhaps in another
process.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger(__name__)

UNHURRIED_S = 0.05
"""How long a record that nobody waits for may be held back, to share its commit with others."""
MOST_HELD = 100_000
_TABLES = (
    "CREATE TABLE IF NOT EXISTS spool (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS refused (kind TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL)",
)
_DEPTH = "SELECT (SELECT max(id) FROM spool) - (SELECT min(id) FROM spool) + 1"


@dataclass(frozen=True, slots=True)
class Spooled:
    """One record of the queue: its place, what it is, and its JSON."""

    id: int
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Put:
    kind: str
    record: msgspec.Struct
    waiter: asyncio.Future[None] | None


class SpoolFile:
    """The queue as its deliverer sees it. `arrived` is set where records come from this process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connected(path)
        self._lock = threading.Lock()
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *_TABLES):
            self._connection.execute(statement)
        self._depths = _connected(path)  # one of its own, so that whoever asks need not wait for a commit
        self.arrived = threading.Event()

    @property
    def depth(self) -> int:
        """Records that are written and not delivered yet: the oldest go first, so no gap is between those that wait."""
        (found,) = self._depths.execute(_DEPTH).fetchone()
        return found or 0

    def batch(self, most: int) -> list[Spooled]:
        """The oldest records, in their order."""
        with self._lock:
            rows = self._connection.execute("SELECT id, kind, body FROM spool ORDER BY id LIMIT ?", (most,)).fetchall()
        return [Spooled(*row) for row in rows]

    def delivered(self, ids: Sequence[int]) -> None:
        """Takes records off the queue."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM spool WHERE id = ?", [(i,) for i in ids])

    def refuse(self, spooled: Spooled, reason: str) -> None:
        """Sets aside a record that no repetition will make right; it stays in the file, with the reason."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO refused VALUES (?, ?, ?)", (spooled.kind, spooled.body, reason))
            connection.execute("DELETE FROM spool WHERE id = ?", (spooled.id,))

    def close(self) -> None:
        """Closes the file."""
        self._depths.close()
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class Spool(SpoolFile):
    """The queue of one router. `put` and `put_durably` are called on the event loop; a thread of its own writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._incoming: deque[_Put] = deque()
        self._hurry = threading.Event()
        self._closing = False
        self._writer = threading.Thread(target=self._write, name="spool", daemon=True)
        self._writer.start()

    def put(self, kind: str, record: msgspec.Struct) -> None:
        """Queues a record; it is on disk a moment later."""
        self._incoming.append(_Put(kind, record, None))

    async def put_durably(self, kind: str, record: msgspec.Struct) -> None:
        """Queues a record and returns once it is on disk. Raises sqlite3.Error where it cannot be written now; it is
        kept in memory and tried again."""
        waiter = asyncio.get_running_loop().create_future()
        self._incoming.append(_Put(kind, record, waiter))
        self._hurry.set()
        await waiter

    def flush(self) -> None:
        """Writes what was put and ends the writer: afterwards nothing may be put. Call it before `close`."""
        self._closing = True
        self._hurry.set()
        self._writer.join()

    def _write(self) -> None:
        held: list[_Put] = []
        while True:
            # Not a queue that wakes this thread for each record: those that nobody waits for come together.
            self._hurry.wait(UNHURRIED_S)
            self._hurry.clear()
            closing = self._closing
            while self._incoming:
                held.append(self._incoming.popleft())
            if held:
                held = self._tried(held)
                if held and not closing:
                    time.sleep(0.2)
            if closing:
                return

    def _tried(self, held: list[_Put]) -> list[_Put]:
        """Commits the records, and gives back those that could not be written."""
        waiters = [put.waiter for put in held if put.waiter is not None]
        try:
            self._commit(held)
        except sqlite3.Error as error:
            log.error("spool not written", reason=type(error).__name__, records=len(held))
            _answer(waiters, error)
            return [_Put(put.kind, put.record, None) for put in held[-MOST_HELD:]]
        self.arrived.set()
        _answer(waiters, None)
        return []

    def _commit(self, held: Sequence[_Put]) -> None:
        rows = [(put.kind, msgspec.json.encode(put.record)) for put in held]
        with self._transaction() as connection:
            connection.executemany("INSERT INTO spool (kind, body) VALUES (?, ?)", rows)


def _answer(waiters: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    """Wakes who waits for the commit, on their own loops."""

    def wake(waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    for waiter in waiters:
        try:
            waiter.get_loop().call_soon_threadsafe(wake, waiter)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=15, isolation_level=None, check_same_thread=False)
