"""Brings a database to the schema of this version: `migrate(url)`, at every start and from any number of processes.

Migrations go forward only, each in one transaction; a ledger is never taken apart to go back.
"""

from __future__ import annotations

from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from mechanism.errors import ConfigError
from serving.database.engine import Database, parsed

# Any constant of our own: processes that migrate one PostgreSQL database wait for each other under it.
LOCK = 0x6C6C6D61
# Alembic keeps what it is doing in module variables, so threads of one process take turns.
_one_at_a_time = Lock()


def migrate(url: str) -> None:
    """Brings the database at `url` up to date; does nothing where it is.

    Raises ConfigError where a newer version of the project has already written to it.
    """
    database = Database(url, pool_size=1)
    try:
        with _one_at_a_time:
            database.transact(_upgrade)
    except CommandError as error:
        shown = parsed(url).render_as_string(hide_password=True)
        remedy = "a newer version has migrated this database: install that version, or restore a backup"
        raise ConfigError("database", shown, remedy) from error
    finally:
        database.close()


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration: the scripts lie in this package, there is no ini file."""
    made = Config()
    made.set_main_option("script_location", "serving.database:migrations")
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def newest() -> str:
    """The revision of this version of the project."""
    return str(ScriptDirectory.from_config(config()).get_current_head())


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # A large table may take longer than the time that a request has.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    command.upgrade(config(connection), "head")
