"""A database from a URL: connections, transactions, and which failures are retried.

SQLite is set up for durable writes by several processes, PostgreSQL for psycopg 3 behind a pool. The tables are in
`serving.database.schema`.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from mechanism.errors import ConfigError
from serving.database.signatures import Signer

BUSY_TIMEOUT_S = 15
CONNECT_TIMEOUT_S = 5
CLOSE_S = 10.0
RETRY_S = 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5
# synchronous_commit: a charge that was reported as written is on disk, whatever the server's default is.
SESSION = (
    "-c synchronous_commit=on -c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s"
)
# The server rolled the transaction back: serialization failure, deadlock, lock timeout.
ROLLED_BACK = {"40001", "40P01", "55P03"}
# The connection broke, or the server is shutting down or starting: a COMMIT in progress may have succeeded or not.
CONNECTION_LOST = ("08", "57P")

T = TypeVar("T")


class Database:
    """One SQLite file or one PostgreSQL database; safe to use from several threads, not across a fork.

    `retry_s` is how long `transact` retries. `cursors` signs the cursors of lists; by default under a key of this
    object's own.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, retry_s: float = RETRY_S, cursors: Signer | None = None
    ) -> None:
        self.cursors = cursors or Signer([secrets.token_bytes(32)])
        self.engine = _engine(parsed(url), pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._retry_s = retry_s
        self._in_use = 0
        self._changed = threading.Condition()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction; on SQLite it blocks no writer."""
        with self._using(), self.engine.connect().execution_options(only_reads=True) as connection, connection.begin():
            yield connection

    def transact(self, work: Callable[[Connection], T], *, idempotent: bool = False) -> T:
        """Run `work` in one writing transaction and return its result.

        A transaction that the database rolled back (lock, deadlock, serialization failure) runs again. `idempotent`
        work also runs again if its commit is in doubt (the connection broke) and if another transaction inserted the
        same key first.

        Raises:
            DBAPIError: if `work` fails for another reason, or still fails after `retry_s` seconds.
        """
        end, pause = time.monotonic() + self._retry_s, SHORTEST_PAUSE_S
        while True:
            started = False
            try:
                with self._using(), self.engine.begin() as connection:
                    started = True
                    return work(connection)
            except DBAPIError as error:
                retry = _was_rolled_back(error) or ((idempotent or not started) and _may_succeed_later(error))
                if not retry or time.monotonic() >= end:
                    raise
            # A random pause keeps writers that collided from colliding again.
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return an INSERT that supports ON CONFLICT; SQLAlchemy has one class per database for the same SQL."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Close all connections, after waiting for those in use: a disposed pool no longer closes them."""
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
    """Parse a database URL and set the driver this project uses.

    Raises:
        ConfigError: if the URL names no SQLite file and no PostgreSQL database; its text hides the URL's password.
    """
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
        raise ConfigError("database", shown, "a database in memory is lost when the process ends: " + remedy)
    return found


def require_existing(url: str) -> None:
    """Check that there is a database at `url`, for commands that work on a router's: SQLite would create another.

    Raises:
        ConfigError: if `url` names a SQLite file that does not exist.
    """
    found = parsed(url)
    if found.get_backend_name() == "sqlite" and not Path(str(found.database)).is_file():
        remedy = "no such file: a router keeps its SQLite in its --state-dir, as router.sqlite3"
        raise ConfigError("database", found.render_as_string(hide_password=True), remedy)


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
        # Every transaction locks the rows that it depends on, so the weakest level is enough.
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,
        pool_recycle=1800,
    )


def _on_sqlite_connect(connection: Any, record: Any) -> None:
    """Use a durable write-ahead log, and leave BEGIN to `_on_sqlite_begin`: the driver would send it too late."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(connection: Connection) -> None:
    """Take a writer's lock at BEGIN: a later upgrade fails with "database is locked" instead of waiting."""
    reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _was_rolled_back(error: DBAPIError) -> bool:
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or getattr(error.orig, "sqlstate", None) in ROLLED_BACK


def _may_succeed_later(error: DBAPIError) -> bool:
    """Return whether a retry may succeed: the server comes back, or the other transaction's row becomes visible."""
    if isinstance(error, IntegrityError) or error.connection_invalidated:
        return True
    if hasattr(error.orig, "sqlite_errorname"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    # psycopg sets no state if it could not connect at all.
    return state.startswith(CONNECTION_LOST) if state else type(error.orig).__name__ == "OperationalError"
