"""The routers' database, for commands that work on it without a router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from serving.database.engine import Database

DatabaseOption: TypeAlias = Annotated[
    str, typer.Option(help="The routers' database: postgresql://..., sqlite:///...", envvar="LLM_AUCTION_DATABASE")
]


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Open the database at `url`, upgraded to this version; a SQLite file that does not exist is a ConfigError."""
    from serving.database.engine import Database, require_existing
    from serving.database.migrations import migrate

    require_existing(url)
    migrate(url)
    database = Database(url, pool_size=2)
    try:
        yield database
    finally:
        database.close()
