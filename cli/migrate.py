"""`llm-auction migrate`: upgrade a database before the processes of a new version start."""

from __future__ import annotations

from typing import Annotated

import typer


def migrate(
    database: Annotated[
        str, typer.Option(envvar="LLM_AUCTION_DATABASE", help="The routers' database, as postgresql://...")
    ],
) -> None:
    """Upgrade a database to the schema of this version; routers and the ledger do so themselves at their start.

    There is no way back but a backup: a ledger is never downgraded.
    """
    from serving.database import migrations

    migrations.migrate(database)
    typer.echo(f"the database has revision {migrations.newest()}")
