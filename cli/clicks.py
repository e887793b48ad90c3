"""`llm-auction clicks`: mark clicks invalid after they were charged, and refund them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cli.router_database import DatabaseOption, opened

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Mark charged clicks invalid and refund them.")


@app.callback()
def clicks() -> None:
    """Mark charged clicks invalid and refund them."""


@app.command()
def invalidate(
    reason: Annotated[str, typer.Option(help="Why, for the refund entries, such as datacenter.")],
    database: DatabaseOption,
    click: Annotated[str, typer.Option(help="One click's id.")] = "",
    auction: Annotated[str, typer.Option(help="The clicks of one auction.")] = "",
    source: Annotated[str, typer.Option(help="The clicks from one source, as /v1/reports/events names it.")] = "",
    placement: Annotated[str, typer.Option(help="The clicks on one placement.")] = "",
    campaign: Annotated[str, typer.Option(help="Of these, the clicks of one campaign alone.")] = "",
    since: Annotated[datetime | None, typer.Option(help="From this time on, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, in UTC.")] = None,
) -> None:
    """Mark the clicks invalid that fit all options, once each, and refund what they were charged."""
    from datetime import UTC

    from serving.ledger.refunds import Clicks, refund

    chosen = Clicks(
        click_id=click,
        auction_id=auction,
        source=source,
        placement=placement,
        campaign_id=campaign,
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
    )
    with opened(database) as books:
        found = refund(books, chosen, reason)
    given_back = ", ".join(f"{micros} micros {currency}" for currency, micros in sorted(found.micros.items()))
    typer.echo(f"{found.clicks} clicks invalidated; refunded: {given_back or 'nothing'}")
