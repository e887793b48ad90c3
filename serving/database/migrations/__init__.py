"""Upgrade a database to the schema of this version: `migrate(url)`, at every start and from any number of processes.

Migrations go forward only, all pending ones in one transaction; a ledger is never downgraded.
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

# Any constant: processes that migrate the same PostgreSQL database wait for each other on this advisory lock.
ADVISORY_LOCK = 0x6C6C6D61
# Alembic keeps its state in module variables, so the threads of a process take turns.
_one_thread = Lock()


def migrate(url: str) -> None:
    """Upgrade the database at `url`; do nothing if it is up to date.

    Raises:
        ConfigError: if a newer version of the project has migrated the database.
    """
    database = Database(url, pool_size=1)
    try:
        with _one_thread:
            database.transact(_upgrade)
    except CommandError as error:
        shown = parsed(url).render_as_string(hide_password=True)
        remedy = "a newer version has migrated this database: install that version, or restore a backup"
        raise ConfigError("database", shown, remedy) from error
    finally:
        database.close()


def config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration: the scripts are in this package, there is no ini file."""
    configuration = Config()
    configuration.set_main_option("script_location", "serving.database:migrations")
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    return configuration


def newest() -> str:
    """Return the revision of this version of the project."""
    return str(ScriptDirectory.from_config(config()).get_current_head())


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Rewriting a large table may take longer than a request is allowed to.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
    command.upgrade(config(connection), "head")
