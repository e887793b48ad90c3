"""The SQLite file of an embedded log: its connections, its lock for writers, and the translation of SQLite's errors.

The file is in WAL mode, so readers neither wait nor block others, and read only durable data. A writer holds `log.lock`
for its whole transaction, the checkpoint included. Waiting writers therefore queue in the kernel instead of polling,
and no write runs during the checkpoint of another process, which could damage the file in SQLite before 3.51.3
(https://sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mechanism.errors import InputError
from streaming.embedded.tables import upgrade
from streaming.file_lock import FileLock
from streaming.log import LogCorrupt, LogUnavailable

FILE = "log.db"
PAGE_BYTES = 8_192
"""The size of one answer with its candidates; measured against pages of 4 and 16 KiB."""
WAL_PAGES = 1_000
LONGEST_WAL_BYTES = 64 << 20
VACUUMED_PAGES = 2_000
BUSY_S = 30.0
"""How long to wait for programs that do not use `log.lock`, such as SQLite's shell."""


class LogDatabase:
    """The file in a folder. If `durable` is False, the system decides when commits reach the disk.

    Raises:
        InputError: if the folder holds a log of version 0.1, which was kept in many files.
        LogUnavailable: if the file cannot be opened.
        LogCorrupt: if it is not an SQLite file, or is damaged.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.path = folder / FILE
        self._durable = durable
        self._mutex = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_old_format(folder)
        self._lock = FileLock(folder / "log.lock")
        with translated(self.path), self._lock.holding():
            self._writer = self._connect()
            weakref.finalize(self, self._writer.close)  # for owners that are never closed
            self._writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._writer.execute("PRAGMA journal_mode = WAL")
            upgrade(self._writer)
            new = "INSERT INTO log SELECT ? WHERE NOT EXISTS (SELECT 1 FROM log)"
            self._writer.execute(new, (uuid.uuid4().hex,))

    def reader(self) -> sqlite3.Connection:
        """Open a connection that only reads; close it with `close_reader`."""
        with translated(self.path):
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            return connection

    def close_reader(self, connection: sqlite3.Connection) -> None:
        """Close a connection under the writers' lock, since closing the last one runs a checkpoint."""
        with translated(self.path), FileLock(self._lock.path).holding():
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the body as one transaction, after those of other threads and processes; it is durable at the end.

        LogUnavailable propagates if the transaction could not be written (nothing of it was then), and LogCorrupt if
        the file is damaged.
        """
        with self._mutex, translated(self.path), self._lock.holding():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    def give_space_back(self) -> None:
        """Return free pages to the file system, once there are many of them."""
        with self._mutex, translated(self.path), self._lock.holding():
            (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            if free > VACUUMED_PAGES:
                # `execute` would vacuum the first page only
                self._writer.executescript(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})")

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file and truncate it, so that it no longer holds removed records."""
        with self._mutex, translated(self.path), self._lock.holding():
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read through the writer's connection, between two transactions of this process."""
        with self._mutex, translated(self.path):
            yield self._writer

    def close(self) -> None:
        """Close the writer's connection."""
        with self._mutex:
            self.close_reader(self._writer)

    def _connect(self) -> sqlite3.Connection:
        # Consumers are created in one thread and used in another, but never in two at once.
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LONGEST_WAL_BYTES}")
        connection.execute("PRAGMA secure_delete = ON")  # overwrites removed events in free pages
        return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise this project's errors in place of SQLite's.

    Raises:
        LogUnavailable: if the file cannot be opened, locked, read or written.
        LogCorrupt: if the file is damaged, or is not an SQLite file.
        ProgrammingError: unchanged, if the caller is at fault, such as by using a closed log.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.OperationalError as error:
        raise LogUnavailable(f"{path}: {error}: see to its disk and permissions") from error
    except sqlite3.DatabaseError as error:
        raise LogCorrupt(f"{path}: {error}: restore the file from a backup, or move its folder away") from error


def _refuse_old_format(folder: Path) -> None:
    if any(folder.glob("*/topic.json")):
        remedy = "version 0.1 wrote it: send the spool and finish the workers with that version, then move it away"
        raise InputError("event log", str(folder), remedy)
