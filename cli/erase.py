"""`llm-auction erase USER_ID`: ask for a user's data to be erased, and say when what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.worker import Shards
from mechanism.errors import InputError


def erase(
    user_id: Annotated[str, typer.Argument(help="The user's id, as clients of the router give it.")],
    shards: Shards,
    state_dir: Annotated[
        Path, typer.Option(help="The routers' state, whose secret made the pseudonyms; LLM_AUCTION_SECRET goes first.")
    ] = Path("build/serve"),
    retention_days: Annotated[float, typer.Option(help="How long the log keeps its records.")] = 30.0,
) -> None:
    """Erase what a user asked and read: for readers of the shards at once, from their files within a day, from the log
    when its retention has passed."""
    from datetime import timedelta

    from serving.settings import PSEUDONYMS, derived, known_secret
    from streaming.pseudonyms import pseudonym
    from streaming.shards.erasures import SEGMENT, SHARDS_WITHIN, request
    from streaming.shards.store import ShardStore

    key = derived(known_secret(state_dir), PSEUDONYMS)
    if not user_id:
        raise InputError("USER_ID", user_id, "name the user")
    retention = timedelta(days=retention_days)
    erasure = request(ShardStore(shards), pseudonym(user_id, key), retention)
    by, log_by = erasure.requested_at + SHARDS_WITHIN, erasure.requested_at + retention + SEGMENT
    typer.echo("gone for every reader of the shards: now")
    typer.echo(f"gone from the shards' files, if a feedback worker runs: by {by.isoformat(timespec='minutes')}")
    typer.echo(f"gone from the log: by {log_by.isoformat(timespec='minutes')}")
    typer.echo(f"gone from its dead letters, if they hold any: by {erasure.log_until.isoformat(timespec='minutes')}")
