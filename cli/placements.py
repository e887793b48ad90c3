"""`llm-auction placements`: list a publisher's placements, register them, set their floors."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import typer

from cli.router_api import DEFAULT_URL, ApiKey, RouterUrl, call
from mechanism.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A publisher's placements and their floors.")
Publisher = Annotated[str, typer.Option(help="With an administrator's key: the publisher.")]


@app.callback()
def placements() -> None:
    """List a publisher's placements, register them, set their floors."""


@app.command("list")
def list_placements(url: RouterUrl = DEFAULT_URL, key: ApiKey = "", publisher: Publisher = "") -> None:
    """List placements with their floors."""
    query = f"?{urlencode({'publisher_id': publisher})}" if publisher else ""
    for one in call(url, key, "GET", f"/v1/placements{query}")["items"]:
        typer.echo(_line(one))


@app.command()
def register(
    placement: Annotated[str, typer.Argument(help="The id: lower-case letters, digits and '._-'.")],
    url: RouterUrl = DEFAULT_URL,
    key: ApiKey = "",
    publisher: Publisher = "",
) -> None:
    """Register a placement; a publisher's own again changes nothing."""
    body = msgspec.json.encode({"id": placement, "publisher_id": publisher})
    typer.echo(_line(call(url, key, "POST", "/v1/placements", body)))


@app.command()
def floors(
    placement: Annotated[str, typer.Argument(help="The placement's id.")],
    amounts: Annotated[
        list[str] | None, typer.Argument(help="All its floors, in units of a currency: EUR=0.20 USD=0.25.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all floors.")] = False,
    url: RouterUrl = DEFAULT_URL,
    key: ApiKey = "",
) -> None:
    """Replace the floors of a placement: lower bids in these currencies, and other currencies, buy nothing there.

    Raises:
        InputError: without a floor and without --none, or with both.
    """
    from serving.bid_scale import parse_amounts

    if bool(amounts) == none:
        raise InputError("floors", amounts or "", "give floors such as EUR=0.20, or --none to remove all")
    body = msgspec.json.encode({"floors": parse_amounts(amounts or [], "floors")})
    typer.echo(_line(call(url, key, "PATCH", f"/v1/placements/{quote(placement, safe='')}", body)))


def _line(placement: dict[str, Any]) -> str:
    floors = ", ".join(f"{micros} micros {currency}" for currency, micros in placement["floors"].items())
    return f"{placement['id']} (publisher {placement['publisher_id']}): {floors or 'no floor'}"
