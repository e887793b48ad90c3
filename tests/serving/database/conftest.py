"""Databases for the tests: each test runs on a fresh SQLite and on a fresh PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Connection

from serving.database.engine import Database
from serving.database.migrations import migrate
from tests.support.postgres import PostgresMissing, PostgresServer

_numbers = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the session, with a migrated database to copy."""
    try:
        server = PostgresServer(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with server:
        migrate(server.create("migrated"))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"empty{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database."""
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path / 'store.sqlite3'}"
        migrate(address)
        yield address
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"store{next(_numbers)}"
    yield server.create(name, template="migrated")
    server.drop(name)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def in_doubt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Database], None]:
    """Return `in_doubt(database)`: from then on every commit loses its confirmation, and its work runs again."""

    def make(database: Database) -> None:
        transact = database.transact

        def twice(work: Callable[[Connection], object], *, idempotent: bool) -> object:
            assert idempotent
            transact(work)
            return transact(work)

        monkeypatch.setattr(database, "transact", twice)

    return make
