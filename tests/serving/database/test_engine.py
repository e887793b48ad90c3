"""Connections and transactions: durable settings, clear errors, and retries only where they are safe."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mechanism.errors import ConfigError
from serving.database.engine import Database, parsed
from tests.support.postgres import PostgresServer


def test_a_commit_is_on_disk_when_it_returns(database: Database) -> None:
    queries = ["PRAGMA journal_mode", "PRAGMA synchronous"] if database.is_sqlite else ["SHOW synchronous_commit"]
    with database.read() as connection:
        assert [connection.execute(text(q)).scalar_one() for q in queries] in (["wal", 2], ["on"])


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u:hush@h/d", "nonsense:hush", ""])
def test_other_addresses_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://") as raised:
        parsed(url)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_postgresql_urls_use_psycopg_3(scheme: str) -> None:
    assert parsed(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


def test_an_unreachable_database_is_an_error(tmp_path: Path) -> None:
    database = Database(f"postgresql://nobody@/none?host={tmp_path}", retry_s=0)
    with pytest.raises(DBAPIError), database.read():
        pass
    with pytest.raises(DBAPIError):
        database.transact(lambda c: None)
    database.close()


def test_readers_do_not_block_writers(database: Database) -> None:
    with database.read() as reader:
        before = reader.execute(text("SELECT tick FROM change_clock")).scalar_one()
        database.transact(lambda c: c.execute(text("UPDATE change_clock SET tick = tick + 1")))
    with database.read() as reader:
        assert reader.execute(text("SELECT tick FROM change_clock")).scalar_one() == before + 1


def test_failing_work_is_not_retried(database: Database) -> None:
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(text("UPDATE change_clock SET tick = 1000"))
        connection.execute(text("SELECT nonsense"))

    with pytest.raises(DBAPIError):
        database.transact(work, idempotent=True)
    assert len(calls) == 1
    with database.read() as connection:
        assert connection.execute(text("SELECT tick FROM change_clock")).scalar_one() == 0


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_transaction_rolled_back_by_the_server_runs_again(postgres: PostgresServer, state: str) -> None:
    database, calls = Database(postgres.url("migrated")), []

    def work(connection: Connection) -> int:
        calls.append(1)
        if len(calls) < 3:
            connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return len(calls)

    assert database.transact(work) == 3
    database.close()


def test_after_a_lost_connection_only_idempotent_work_runs_again(postgres: PostgresServer) -> None:
    database, calls = Database(postgres.url("migrated")), []

    def work(connection: Connection) -> int:
        calls.append(1)
        if len(calls) % 2:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return len(calls)

    with pytest.raises(DBAPIError):
        database.transact(work)
    calls.clear()
    assert database.transact(work, idempotent=True) == 2
    database.close()


def test_closing_waits_for_readers_in_other_threads(database: Database) -> None:
    reading, over = threading.Event(), threading.Event()
    order: list[str] = []

    def read() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
            reading.set()
            over.wait(5)
            order.append("read")

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(5)
    threading.Timer(0.2, over.set).start()
    database.close()
    order.append("closed")
    thread.join()
    assert order == ["read", "closed"]
