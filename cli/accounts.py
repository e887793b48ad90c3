"""`llm-auction accounts`: advertisers' credit limits, payments and statements, over the routers' database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.router_database import DatabaseOption, opened

if TYPE_CHECKING:
    from serving.accounts.advertisers import AdvertiserAccount, AdvertiserStore

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Advertisers' accounts.")

Advertiser: TypeAlias = Annotated[str, typer.Argument(help="The advertiser's id, as in its campaigns.")]
Currency: TypeAlias = Annotated[str, typer.Argument(help="The account's currency, such as EUR.")]


@app.callback()
def accounts() -> None:
    """Advertisers' accounts: limits, payments, balances, statements."""


@app.command("set")
def set_limit(
    advertiser: Advertiser,
    currency: Currency,
    database: DatabaseOption,
    prepaid: Annotated[bool, typer.Option("--prepaid", help="Spend what was paid in.")] = False,
    credit_limit: Annotated[int | None, typer.Option(help="Micros to spend beyond what was paid in.", min=1)] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Spend without a limit.")] = False,
) -> None:
    """Set how an advertiser pays: give one of --prepaid, --credit-limit and --unlimited.

    Raises:
        InputError: if none or several are given.
    """
    from datetime import UTC, datetime

    from mechanism.errors import InputError
    from serving.accounts.advertisers import named_account
    from serving.campaigns.changes import COMMAND_LINE

    if prepaid + unlimited + (credit_limit is not None) != 1:
        raise InputError("terms", "", "give one of --prepaid, --credit-limit MICROS and --unlimited")
    limit = 0 if prepaid else credit_limit
    with _store(database) as store:
        _show(store.set_limit(named_account(advertiser, currency), limit, datetime.now(UTC), COMMAND_LINE))


@app.command()
def pay(
    advertiser: Advertiser,
    currency: Currency,
    database: DatabaseOption,
    micros: Annotated[int, typer.Option(help="The amount in micros; a negative one takes a payment back.")],
    reference: Annotated[str, typer.Option(help="The payment's own reference; it is entered once.")],
) -> None:
    """Enter a payment of an advertiser, once by its reference."""
    from datetime import UTC, datetime

    from serving.accounts.advertisers import named_account
    from serving.campaigns.changes import COMMAND_LINE

    with _store(database) as store:
        account, now = named_account(advertiser, currency), datetime.now(UTC)
        _, stored, new = store.pay(account, micros, reference, now, COMMAND_LINE)
    typer.echo("entered" if new else "was entered before: nothing changed")
    if stored.opened_at == now:
        remedy = "check the names, and take the payment back (a negative one) if they are wrong"
        typer.echo(f"{advertiser} {currency}: this payment opened the account: {remedy}", err=True)
    _show(stored)


@app.command("list")
def list_accounts(
    database: DatabaseOption,
    advertiser: Annotated[str, typer.Option(help="This advertiser's accounts alone.")] = "",
) -> None:
    """List accounts: what was paid in, what was charged, what is left."""
    with _store(database) as store:
        cursor = ""
        while True:
            page = store.accounts(advertiser, cursor)
            for account in page.items:
                _show(account)
            if not (cursor := page.cursor):
                return


@app.command()
def statement(
    database: DatabaseOption,
    month: Annotated[str, typer.Option(help="Such as 2026-11, in UTC; this month if left out.")] = "",
    advertiser: Annotated[str, typer.Option(help="This advertiser's accounts alone.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of CSV.")] = False,
) -> None:
    """Print a month of each account: opening balance, payments, charges, refunds, closing balance."""
    from datetime import UTC, datetime

    import msgspec

    from serving.reports.statements import statements, statements_csv

    now = datetime.now(UTC)
    with opened(database) as books:
        lines = statements(books, month or f"{now:%Y-%m}", now, advertiser)
    text = msgspec.json.format(msgspec.json.encode({"lines": lines})).decode() if as_json else statements_csv(lines)
    typer.echo(text.rstrip())


@contextmanager
def _store(database: str) -> Iterator[AdvertiserStore]:
    from serving.accounts.advertisers import AdvertiserStore

    with opened(database) as books:
        yield AdvertiserStore(books)


def _show(account: AdvertiserAccount) -> None:
    limit = account.credit_limit_micros
    terms = "unlimited credit" if limit is None else f"credit limit {limit}" if limit else "prepaid"
    available = "unlimited" if account.available_micros is None else account.available_micros
    typer.echo(
        f"{account.advertiser_id} {account.currency}: {terms}; paid {account.paid_micros}, charged "
        f"{account.charged_micros}, available {available} micros"
    )
