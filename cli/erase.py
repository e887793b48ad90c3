"""`llm-auction erase`: erase readers' questions and answers, and print until when that is carried out everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import LakeUrl
from mechanism.errors import ConfigError, InputError


def erase(
    lake: LakeUrl,
    user_id: Annotated[
        str | None, typer.Argument(help="The user's id, as clients send it to the router in `ads.user_id`.")
    ] = None,
    auction: Annotated[str, typer.Option(help="Instead: the id of one answer, for readers without an id.")] = "",
    older_than_days: Annotated[float, typer.Option(help="Instead: all answers that are older.")] = 0.0,
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

    Raises:
        ConfigError: if not exactly one of a user, an auction and an age is given.
        InputError: if the user's id is empty or there is no lake.
    """
    from datetime import UTC, datetime, timedelta
    from getpass import getuser

    from streaming.lake import erasures
    from streaming.lake.store import KEPT_HOURS, Lake
    from streaming.topics import INTERACTIONS

    if [user_id is not None, bool(auction), older_than_days > 0].count(True) != 1:
        raise ConfigError("erase", user_id, "give a user's id, or --auction, or --older-than-days")
    if user_id == "":
        raise InputError("USER_ID", user_id, "give the user's id")
    users = pseudonyms_of(user_id, state_dir) if user_id is not None else ()
    tables, who = Lake(lake), by or getuser()
    if not tables.has(INTERACTIONS):
        raise InputError("--lake", lake, "no lake is there: give what `llm-auction worker lake` writes to")
    now, retention = datetime.now(UTC), timedelta(days=retention_days)
    if older_than_days > 0:
        answers = erasures.erase_before(tables, now - timedelta(days=older_than_days), who, now)
        log_until = None
    else:
        answers = 0
        for one in users or (auction,):
            request, found = erasures.erase(tables, "user" if users else "auction", one, who, retention, now)
            answers, log_until = answers + found, request.log_until
    typer.echo(f"answers erased in the lake: {answers}")
    if not answers:
        typer.echo(
            "no such answer with a reader is in the lake; if you expect some, check the id and the routers' secret. "
            "The request is recorded in any case"
        )
    by_hour = (now + timedelta(hours=KEPT_HOURS + 12)).isoformat(timespec="minutes")
    typer.echo("hidden from every reader of the lake: now")
    typer.echo(f"removed from the lake's files, if they are maintained at least every 12 hours: by {by_hour}")
    if log_until is not None:
        typer.echo(f"removed from the log: by {(now + retention + erasures.SEGMENT).isoformat(timespec='minutes')}")
        typer.echo(f"removed from its dead letters: by {log_until.isoformat(timespec='minutes')}")


def pseudonyms_of(user_id: str, state_dir: Path | None) -> tuple[str, ...]:
    """Return what stands for a user in events, by each of the routers' secrets."""
    from serving.settings import PSEUDONYMS, derived, known_secrets
    from streaming.pseudonyms import pseudonym

    # an explicit --state-dir takes precedence over a secret in the environment
    known = known_secrets(Path("build/serve")) if state_dir is None else known_secrets(state_dir, {})
    return tuple(pseudonym(user_id, derived(secret, PSEUDONYMS)) for secret in known)
