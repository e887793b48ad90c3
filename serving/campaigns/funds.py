"""What advertisers may still spend: their accounts, one for each currency that they pay in.

An account's money is what was paid in, plus its credit limit, less what was charged. A limit of 0 is prepaid, None is
unlimited credit. Charges and refunds are in `advertiser_totals`; nothing here adds them up a second time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, func, select, tuple_, update

from mechanism.types import Micros
from serving.campaigns.types import Campaign
from serving.database.engine import Database
from serving.database.schema import advertiser_accounts, advertiser_totals

PREPAID: Micros = 0
"""The credit limit of a prepaid account."""


class Account(NamedTuple):
    """The account of an advertiser in one currency."""

    advertiser_id: str
    currency: str

    @property
    def key(self) -> str:
        """The account as text; no campaign's id equals it, since those have no blanks."""
        return f"{self.currency} {self.advertiser_id}"

    @classmethod
    def of_key(cls, key: str) -> Account | None:
        """Return the account that a `key` names; None for a campaign's id."""
        currency, blank, advertiser = key.partition(" ")
        return cls(advertiser, currency) if blank else None


class Funds(msgspec.Struct, frozen=True):
    """What is left of an account by the ledger; None is unlimited, a negative amount is owed."""

    account: Account
    left: Micros | None


def account_of(campaign: Campaign) -> Account:
    """Return the account that pays for a campaign."""
    return Account(campaign.advertiser_id, campaign.currency)


def open_account(database: Database, connection: Connection, account: Account, now: datetime, changed_in: int) -> None:
    """Open an account if there is none: with unlimited credit, or prepaid where another account has a limit.

    So an advertiser whose credit is limited does not escape the limit by booking in another currency.
    """
    table = advertiser_accounts
    other = select(table.c.currency).where(table.c.advertiser_id == account.advertiser_id, limited()).limit(1)
    limit = None if connection.execute(other).first() is None else PREPAID
    row = {
        **account._asdict(),
        "credit_limit_micros": limit,
        "paid_micros": 0,
        "opened_at": now,
        "changed_in": changed_in,
    }
    connection.execute(database.insert(table).values(row).on_conflict_do_nothing())


def funds(connection: Connection, chosen: ColumnElement[bool]) -> list[Funds]:
    """Return what is left of the accounts that a condition on `advertiser_accounts` chooses."""
    columns = advertiser_accounts.c
    return [
        Funds(Account(advertiser, currency), left(limit, paid, charged))
        for advertiser, currency, limit, paid, charged in connection.execute(
            with_charged(columns.advertiser_id, columns.currency, columns.credit_limit_micros, columns.paid_micros)
            .where(chosen)
            .order_by(columns.advertiser_id, columns.currency)
        )
    ]


def left(credit_limit: Micros | None, paid: Micros, charged: Micros) -> Micros | None:
    """Return what may still be spent; None without a limit."""
    return None if credit_limit is None else credit_limit + paid - charged


def with_charged(*columns: ColumnElement[Any]) -> Select[Any]:
    """Return the query of columns of accounts and what each was charged, less refunds, as `charged_micros`."""
    account, total = advertiser_accounts.c, advertiser_totals.c
    same = and_(account.advertiser_id == total.advertiser_id, account.currency == total.currency)
    charged = func.coalesce(total.charged_micros, 0).label("charged_micros")
    return select(*columns, charged).select_from(advertiser_accounts.outerjoin(advertiser_totals, same))


def limited() -> ColumnElement[bool]:
    """Return the condition that an account's credit is limited."""
    return advertiser_accounts.c.credit_limit_micros.is_not(None)


def lock_limited(connection: Connection, advertisers: Collection[str]) -> dict[Account, Micros]:
    """Lock the limited accounts of some advertisers, and return what is left of each.

    They are locked after campaigns and before totals, in the database's order of their keys.
    """
    table = advertiser_accounts
    own = and_(table.c.advertiser_id.in_(sorted(advertisers)), limited())
    order = (table.c.advertiser_id, table.c.currency)
    locked: list[Row[Any]] = list(connection.execute(select(*order).where(own).order_by(*order).with_for_update()))
    if not locked:
        return {}
    # Another statement, which sees what was charged until the lock was granted.
    found = funds(connection, tuple_(*order).in_([tuple(row) for row in locked]))
    return {one.account: one.left for one in found if one.left is not None}


def mark_changed(connection: Connection, accounts: Iterable[Account], changed_in: int) -> None:
    """Let routers read limited accounts, which the transaction has locked, again."""
    rows = [{"own_advertiser": one.advertiser_id, "own_currency": one.currency} for one in accounts]
    if rows:
        table = advertiser_accounts
        same = (table.c.advertiser_id == bindparam("own_advertiser")) & (table.c.currency == bindparam("own_currency"))
        connection.execute(update(table).where(same).values(changed_in=changed_in), rows)
