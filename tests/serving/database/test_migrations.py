"""The migrated schema equals the tables of the code, on both databases and however migrations are run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from mechanism.errors import ConfigError
from serving.database.engine import Database
from serving.database.migrations import config, migrate, newest
from serving.database.schema import metadata
from serving.reports.reports import FIGURES, Query, report

REPOSITORY = Path(__file__).parents[3]


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_migrated_schema_equals_the_tables(database: Database) -> None:
    with database.read() as connection:
        assert differences(connection) == []
        for name, table in metadata.tables.items():  # Alembic does not compare primary keys
            assert inspect(connection).get_pk_constraint(name)["constrained_columns"] == list(
                table.primary_key.columns.keys()
            )


def test_the_comparison_finds_differences(database: Database) -> None:
    def alter(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE charges ADD COLUMN surplus TEXT"))
        connection.execute(text("DROP INDEX ix_charges_auction_id"))

    database.transact(alter)
    with database.read() as connection:
        assert len(differences(connection)) == 2


def test_migrating_again_keeps_the_data(url: str) -> None:
    database = Database(url)
    database.transact(lambda c: c.execute(text("UPDATE change_clock SET tick = 7")))
    migrate(url)
    with database.read() as connection:
        assert connection.execute(text("SELECT tick FROM change_clock")).scalars().all() == [7]
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == newest()
    database.close()


def test_figures_counted_before_the_second_revision_are_kept(empty_url: str) -> None:
    database = Database(empty_url)
    key = "'c1', 'c1-1', 'chat', '2026-11-24', 'm1', 'a1', 'EUR'"
    database.transact(lambda c: command.upgrade(config(c), "0001"))
    database.transact(lambda c: c.execute(text(f"INSERT INTO report_counters VALUES ({key}, 5, 4, 3, 2, 1)")))
    migrate(empty_url)
    (line,) = report(database, Query())
    assert [getattr(line, name) for name in FIGURES] == [5, 4, 3, 2, 1, 0, 0, 0, 0, 1, 0, 0]
    with database.read() as connection:
        assert differences(connection) == []
    database.close()


def test_routers_that_start_together_migrate_once(empty_url: str) -> None:
    script = f"from serving.database.migrations import migrate; migrate({empty_url!r})"
    routers = [subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY) for _ in range(3)]
    assert [router.wait(60) for router in routers] == [0, 0, 0]
    database = Database(empty_url)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM change_clock")).scalar_one() == 1
    database.close()


def test_a_database_migrated_by_a_newer_version_is_refused(url: str) -> None:
    database = Database(url)
    database.transact(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigError, match="newer version"):
        migrate(url)
    database.close()
