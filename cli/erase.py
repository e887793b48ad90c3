"""`llm-auction erase USER_ID`: request the erasure of a user's data, and print until when it is carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import ShardsUrl
from mechanism.errors import InputError


def erase(
    user_id: Annotated[str, typer.Argument(help="The user's id, as clients send it to the router in `ads.user_id`.")],
    shards: ShardsUrl,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="The routers' state directory, which holds the secret of the pseudonyms; by default "
            "LLM_AUCTION_SECRET, else build/serve."
        ),
    ] = None,
    retention_days: Annotated[float, typer.Option(help="Days that the log keeps its records.")] = 30.0,
) -> None:
    """Erase a user's questions and answers.

    Readers of the shards no longer see them at once; a feedback worker removes them from the shards' files within a
    day; the log drops them when its retention has passed.

    Raises:
        InputError: if the user's id is empty or no shards are there.
    """
    from datetime import timedelta

    from serving.settings import PSEUDONYMS, derived, known_secret
    from streaming.pseudonyms import pseudonym
    from streaming.shards.erasures import SEGMENT, SHARDS_WITHIN, held, request
    from streaming.shards.store import ShardStore

    if not user_id:
        raise InputError("USER_ID", user_id, "give the user's id")
    # an explicit --state-dir takes precedence over a secret in the environment
    secret = known_secret(Path("build/serve")) if state_dir is None else known_secret(state_dir, {})
    user, store = pseudonym(user_id, derived(secret, PSEUDONYMS)), ShardStore(shards)
    if not store.partitions():
        raise InputError("--shards", shards, "no shards are there: give what `llm-auction worker feedback` writes to")
    found, retention = held(shards, user), timedelta(days=retention_days)
    erasure = request(store, user, retention)
    if found:
        typer.echo(f"answers of this user in the shards: {found}")
    else:
        typer.echo(
            "no answer of this user is in the shards; if you expect some, check the id and the routers' secret. "
            "The request is recorded in any case"
        )
    by, log_by = erasure.requested_at + SHARDS_WITHIN, erasure.requested_at + retention + SEGMENT
    typer.echo("hidden from every reader of the shards: now")
    typer.echo(f"removed from the shards' files, if a feedback worker runs: by {by.isoformat(timespec='minutes')}")
    typer.echo(f"removed from the log: by {log_by.isoformat(timespec='minutes')}")
    typer.echo(f"removed from its dead letters: by {erasure.log_until.isoformat(timespec='minutes')}")
