"""`llm-auction erase`: erase readers' questions and answers, and print until when that is carried out everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import LakeUrl


def erase(
    lake: LakeUrl,
    user_id: Annotated[
        str | None, typer.Argument(help="The user's id, as clients send it to the router in `ads.user_id`.")
    ] = None,
    auction: Annotated[
        str | None, typer.Option(help="Instead: the id of one answer, for readers without an id.")
    ] = None,
    older_than_days: Annotated[float | None, typer.Option(help="Instead: all answers that are older.")] = None,
    by: Annotated[str, typer.Option("--by", help="Who erases, for the audit; by default this system's user.")] = "",
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="The routers' state directory, which holds the secret of the pseudonyms; by default "
            "LLM_AUCTION_SECRET, else build/serve."
        ),
    ] = None,
    retention_days: Annotated[float, typer.Option(help="Days that the log keeps its records.")] = 30.0,
) -> None:
    """Erase questions, profiles and texts of answers; the auctions, without readers, remain.

    They are gone for every reader of the lake at once, and from its files within a day; the log drops them when its
    retention has passed.
    """
    from datetime import timedelta
    from getpass import getuser

    from serving.erasure import Selection
    from serving.erasure import erase as erase_readers
    from serving.settings import known_secrets
    from streaming.lake.store import Lake

    def secrets() -> tuple[bytes, ...]:
        # an explicit --state-dir takes precedence over a secret in the environment
        return known_secrets(Path("build/serve")) if state_dir is None else known_secrets(state_dir, {})

    selection = Selection(user_id, auction, older_than_days)
    done = erase_readers(Lake(lake), selection, secrets, by or getuser(), timedelta(days=retention_days))
    typer.echo(f"answers erased in the lake: {done.answers}")
    if not done.answers:
        typer.echo(
            "no such answer with a reader is in the lake; if you expect some, check the id and the routers' secret. "
            "The request is recorded in any case"
        )
    typer.echo("hidden from every reader of the lake: now")
    typer.echo(
        "removed from the lake's files, if they are maintained at least every 12 hours: by "
        f"{done.files_until.isoformat(timespec='minutes')}"
    )
    if done.log_until is not None and done.dead_letters_until is not None:
        typer.echo(f"removed from the log: by {done.log_until.isoformat(timespec='minutes')}")
        typer.echo(f"removed from its dead letters: by {done.dead_letters_until.isoformat(timespec='minutes')}")
