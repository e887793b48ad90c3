"""`llm-auction erase USER_ID`: ask for a user's data to be erased, and say when what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.worker import Shards
from mechanism.errors import InputError


def erase(
    user_id: Annotated[str, typer.Argument(help="The user's id, as clients give it to the router in `ads.user_id`.")],
    shards: Shards,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="The routers' state with the pseudonyms' secret; else LLM_AUCTION_SECRET or build/serve."),
    ] = None,
    retention_days: Annotated[float, typer.Option(help="How long the log keeps its records.")] = 30.0,
) -> None:
    """Erase what a user asked and read: for readers of the shards at once, from their files within a day, from the log
    when its retention has passed."""
    from datetime import timedelta

    from serving.settings import PSEUDONYMS, derived, known_secret
    from streaming.pseudonyms import pseudonym
    from streaming.shards.erasures import SEGMENT, SHARDS_WITHIN, held, request
    from streaming.shards.store import ShardStore

    if not user_id:
        raise InputError("USER_ID", user_id, "name the user")
    # a folder that somebody names goes before what the environment happens to hold
    secret = known_secret(Path("build/serve")) if state_dir is None else known_secret(state_dir, {})
    user, store = pseudonym(user_id, derived(secret, PSEUDONYMS)), ShardStore(shards)
    if not store.partitions():
        raise InputError("--shards", shards, "no shards are there: name what `llm-auction worker feedback` writes to")
    found, retention = held(shards, user), timedelta(days=retention_days)
    erasure = request(store, user, retention)
    if found:
        typer.echo(f"answers of this user in the shards: {found}")
    else:
        typer.echo(
            "no answer of this user is in the shards: if there should be, the id or the routers' secret is another. "
            "The request stands in any case"
        )
    by, log_by = erasure.requested_at + SHARDS_WITHIN, erasure.requested_at + retention + SEGMENT
    typer.echo("gone for every reader of the shards: now")
    typer.echo(f"gone from the shards' files, if a feedback worker runs: by {by.isoformat(timespec='minutes')}")
    typer.echo(f"gone from the log: by {log_by.isoformat(timespec='minutes')}")
    typer.echo(f"gone from its dead letters, if they hold any: by {erasure.log_until.isoformat(timespec='minutes')}")
