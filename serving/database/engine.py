"""A database from a URL: connections, transactions, and which failures are worth another try.

SQLite is set up for durable writes by several processes, PostgreSQL for psycopg 3 behind a pool. What is written is
decided by the stores; tables are `serving.database.schema`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from mechanism.errors import ConfigError

BUSY_TIMEOUT_S = 15
CONNECT_TIMEOUT_S = 5
CLOSE_S = 10.0
RETRY_S = 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5
# synchronous_commit: a charge that was reported as written is on disk, whatever the server's own default is.
SESSION = (
    "-c synchronous_commit=on -c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s"
)
# The server took the transaction back: serialization failure, deadlock, lock timeout.
ROLLED_BACK = {"40001", "40P01", "55P03"}
# The server went away, or is not up yet; whether a COMMIT under way was carried out is unknown.
WENT_AWAY = ("08", "57P")

T = TypeVar("T")


class Database:
    """One SQLite file or one PostgreSQL database. Safe to use from several threads; not across a fork."""

    def __init__(self, url: str, *, pool_size: int = 10, retry_s: float = RETRY_S) -> None:
        self.engine = _engine(parsed(url), pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._retry_s = retry_s
        self._in_use = 0
        self._changed = threading.Condition()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it keeps no writer waiting."""
        with self._using(), self.engine.connect().execution_options(only_reads=True) as connection, connection.begin():
            yield connection

    def transact(self, work: Callable[[Connection], T], *, idempotent: bool = False) -> T:
        """Runs `work` in one writing transaction and gives its result.

        A transaction that the database took back (locked, deadlock, serialization) runs again. `idempotent` work also
        runs again where its fate is unknown (the connection broke, perhaps while committing) and where another
        transaction was faster with the same key. Gives up with SQLAlchemy's error after the time set.
        """
        end, pause = time.monotonic() + self._retry_s, SHORTEST_PAUSE_S
        while True:
            begun = False
            try:
                with self._using(), self.engine.begin() as connection:
                    begun = True
                    return work(connection)
            except DBAPIError as error:
                again = _was_rolled_back(error) or ((idempotent or not begun) and _may_pass(error))
                if not again or time.monotonic() >= end:
                    raise
            # Random pauses: those who met over one lock should not meet again over it.
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT with ON CONFLICT, which both databases write alike and SQLAlchemy keeps apart."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def ready(self) -> bool:
        """Whether the database answers a query."""
        try:
            with self.read() as connection:
                return bool(connection.execute(select(1)).scalar_one())
        except DBAPIError:
            return False

    def close(self) -> None:
        """Gives the connections back. Waits for those that other threads still use: a pool that is gone closes none."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_use == 0, CLOSE_S)
        self.engine.dispose()

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._changed:
            self._in_use += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()


def parsed(url: str) -> URL:
    """The URL with the driver that is used here. Raises ConfigError, which never shows the URL's password."""
    remedy = "give sqlite:///path/to/file or postgresql://user@host/database"
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise ConfigError("database", "<not a URL>", remedy) from error
    shown = found.render_as_string(hide_password=True)
    if found.get_backend_name() in ("postgresql", "postgres"):
        return found.set(drivername="postgresql+psycopg")
    if found.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigError("database", shown, remedy)
    if not found.database or found.database == ":memory:":
        raise ConfigError("database", shown, "a database in memory is lost at the end: " + remedy)
    return found


def _engine(url: URL, pool_size: int) -> Engine:
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=pool_size)
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        return engine
    given = dict(url.query)
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "llm-auction", "options": SESSION}
    return create_engine(
        url,
        connect_args={name: value for name, value in arguments.items() if name not in given},
        # Every transaction here reads what it depends on under a lock, so the weakest level is enough.
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,
        pool_recycle=1800,
    )


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    """Durable write-ahead log; transactions are begun by us, since the driver would begin them too late."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(connection: Connection) -> None:
    """A writer takes the lock at once: one taken halfway fails with "database is locked" instead of waiting."""
    reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _was_rolled_back(error: DBAPIError) -> bool:
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or getattr(error.orig, "sqlstate", None) in ROLLED_BACK


def _may_pass(error: DBAPIError) -> bool:
    """Whether the next try may go better: the server is away, or the other transaction's row will be seen."""
    if isinstance(error, IntegrityError) or error.connection_invalidated:
        return True
    if hasattr(error.orig, "sqlite_errorname"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    # psycopg gives no state where it could not connect at all.
    return state.startswith(WENT_AWAY) if state else type(error.orig).__name__ == "OperationalError"
