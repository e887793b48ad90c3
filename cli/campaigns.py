"""`llm-auction campaigns`: upload a file of campaigns to a running router, print the history of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.router_api import DEFAULT_URL, ApiKey, Refused, RouterUrl, call, send
from mechanism.errors import InputError

MEDIA = {".csv": "text/csv", ".jsonl": "application/jsonl", ".ndjson": "application/jsonl"}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Upload a file of campaigns, print a campaign's history."
)


@app.callback()
def campaigns() -> None:
    """Upload a file of campaigns, print a campaign's history."""


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="Campaigns, one a row: .csv with a header, or .jsonl.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Book the good rows and list the others.")] = False,
    idempotency_key: Annotated[
        str,
        typer.Option(help="Within a day, an upload with the same key books nothing twice. Default: the file's hash."),
    ] = "",
    url: RouterUrl = DEFAULT_URL,
    key: ApiKey = "",
) -> None:
    """Book all campaigns of a file, or none: every bad row is listed with its line, column, value and remedy.

    Raises:
        InputError: if the file cannot be read.
        Refused: if rows of it are wrong.
    """
    media = MEDIA.get(file.suffix.lower())
    if media is None:
        raise InputError("FILE", file.name, f"give a file whose name ends in {', '.join(MEDIA)}")
    try:
        body = file.read_bytes()
    except OSError as error:
        raise InputError("FILE", str(file), error.strerror or "give a readable file") from error
    path = "/v1/campaigns:batch" + ("?skip_bad=true" if skip_bad else "")
    once = idempotency_key or sha256(body + path.encode()).hexdigest()
    try:
        answer, replayed = send(url, key, "POST", path, body, {"Content-Type": media, "Idempotency-Key": once})
    except Refused as error:
        _list(file, error.error.get("rows", ()))
        raise
    for row in answer["booked"]:
        # An answer that was stored before an upgrade of the router has no state.
        typer.echo(f"{file.name}:{row['line']}: {row['id']} {row.get('state', '')}".rstrip())
    _list(file, answer["errors"])
    skipped = len({error["line"] for error in answer["errors"]})
    booked = f"{len(answer['booked'])} campaigns booked" + (" before: nothing changed" if replayed else "")
    typer.echo(booked + (f", {skipped} rows skipped" if skipped else ""))
    if not replayed:
        typer.echo(_next_steps(answer["booked"]), err=True)


def _next_steps(booked: Sequence[Mapping[str, Any]]) -> str:
    """Return what has to happen before the campaigns are shown."""
    paused = sum(row.get("state") == "paused" for row in booked)
    resume = (
        f"; {paused} paused: resume them (POST /v1/campaigns/ID/resume), or give the column state" if paused else ""
    )
    return f"creatives are shown once an administrator has approved them{resume}"


def _list(file: Path, errors: Iterable[Mapping[str, Any]]) -> None:
    for error in errors:
        typer.echo(f"{file.name}:{error['line']}: {error['column']}: {error['value']}: {error['remedy']}", err=True)


@app.command("history")
def show_history(
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    url: RouterUrl = DEFAULT_URL,
    key: ApiKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per change.")] = False,
) -> None:
    """Print who changed which fields of a campaign and its creatives, newest first."""
    path = f"/v1/campaigns/{quote(campaign, safe='')}/changes?limit=1000"
    cursor: str | None = ""
    while cursor is not None:
        page = call(url, key, "GET", path + (f"&cursor={quote(cursor)}" if cursor else ""))
        for change in page["items"]:
            typer.echo(json.dumps(change) if as_json else _in_words(change))
        cursor = page["cursor"] or None


def _in_words(change: Mapping[str, Any]) -> str:
    by = change["by"]
    who = " ".join(filter(None, (by["role"], by["key_id"], by["name"])))
    fields = (f"  {one['field']}: {json.dumps(one['old'])} -> {json.dumps(one['new'])}" for one in change["fields"])
    return "\n".join([f"{change['changed_at']} by {who}", *fields])
