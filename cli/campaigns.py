"""`llm-auction campaigns`: the history of a campaign, over the routers' database."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Campaigns and their history.")


@app.callback()
def campaigns() -> None:
    """Campaigns and their history."""


@app.command("history")
def show_history(
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    database: Annotated[
        str, typer.Option(help="The routers' database: postgresql://..., sqlite:///...", envvar="LLM_AUCTION_DATABASE")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per change.")] = False,
) -> None:
    """Print who changed which fields of a campaign and its creatives, newest first."""
    import msgspec

    from serving.campaigns.changes import Subject, history
    from serving.campaigns.storage import CampaignStore
    from serving.database.engine import Database
    from serving.database.migrations import migrate

    migrate(database)
    opened = Database(database, pool_size=2)
    try:
        CampaignStore(opened).get(campaign)
        cursor, more = "", True
        while more:
            page = history(opened, subject=Subject.CAMPAIGN, subject_id=campaign, cursor=cursor)
            for change in page.items:
                if as_json:
                    typer.echo(msgspec.json.encode(change))
                    continue
                who = " ".join(filter(None, (change.by.role, change.by.key_id, change.by.name)))
                typer.echo(f"{change.changed_at:%Y-%m-%d %H:%M:%S} UTC by {who}")
                for one in change.fields:
                    old, new = (msgspec.json.encode(value).decode() for value in (one.old, one.new))
                    typer.echo(f"  {one.field}: {old} -> {new}")
            cursor, more = page.cursor, bool(page.cursor)
    finally:
        opened.close()
