"""`llm-auction rollback`: back to the version that served before, in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.promote import ROUTES, By, RoutesFile, told, user


def rollback(
    routes: RoutesFile = ROUTES,
    why: Annotated[str, typer.Option(help="The reason, for the history.")] = "",
    by: By = "",
    history: Annotated[bool, typer.Option("--history", help="Only list the changes so far.")] = False,
) -> None:
    """Send the newest version's traffic back to the one before it; again, one further."""
    from serving.canary.deployment import Deployment

    deployment = Deployment(routes)
    if not history:
        typer.echo(told(deployment.rollback(by or user(), why)))
        return
    for change in deployment.history():
        typer.echo(f"{change.at:%Y-%m-%d %H:%M:%S}Z {told(change)} (by {change.by}) {change.why}".rstrip())
