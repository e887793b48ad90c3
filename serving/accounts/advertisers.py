"""Advertisers' accounts: their credit limits, the payments that administrators enter, and what is left.

Charges draw on an account in the transaction that books them (`serving.ledger.charging`); what is left is computed in
one place (`serving.campaigns.funds`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, insert, select, tuple_, update

from mechanism.errors import InputError
from mechanism.sanitize import clean_title
from mechanism.types import Micros
from serving.campaigns.changes import Actor, FieldChange, Subject, changed_fields, record_change
from serving.campaigns.funds import Account, left, open_account, with_charged
from serving.campaigns.validation import CURRENCY
from serving.database.columns import MOST_MICROS, checked_micros, checked_moment, checked_text
from serving.database.cursors import Page, change_mark, checked_limit, read_cursor, write_cursor
from serving.database.engine import Database
from serving.database.schema import advertiser_accounts, payments

ACCOUNTS, PAYMENTS = "accounts", "payments"
"""The lists that their cursors are signed for."""


class AdvertiserAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it stands.

    `credit_limit_micros` is 0 for a prepaid account and None for unlimited credit; `charged_micros` are charges less
    refunds; `available_micros` is what may still be spent, None without a limit, negative if it is owed.
    """

    advertiser_id: str
    currency: str
    credit_limit_micros: Micros | None
    paid_micros: Micros
    charged_micros: Micros
    available_micros: Micros | None
    opened_at: datetime


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """Money that an advertiser paid in. A negative amount takes back one that was entered by mistake."""

    advertiser_id: str
    reference: str
    currency: str
    micros: Micros
    recorded_at: datetime


class AdvertiserStore:
    """The accounts of one database. Times are aware moments; the history of an account names who changed it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_limit(
        self, account: Account, credit_limit_micros: Micros | None, now: datetime, by: Actor
    ) -> AdvertiserAccount:
        """Set an account's credit limit, 0 for prepaid and None for unlimited credit; open it if there is none.

        A limit that no column can hold is an InputError.
        """
        if credit_limit_micros is not None:
            checked_micros("credit_limit_micros", credit_limit_micros)
        changed = {"credit_limit_micros": credit_limit_micros}

        def work(connection: Connection) -> AdvertiserAccount:
            old = self._lock(connection, account, now)
            _record(connection, account, changed_fields({name: old[name] for name in changed}, changed), by, now)
            return _changed(connection, account, changed)

        return self._database.transact(work, idempotent=True)

    def pay(
        self, account: Account, micros: Micros, reference: str, now: datetime, by: Actor
    ) -> tuple[Payment, AdvertiserAccount, bool]:
        """Enter a payment; return it with the account, and whether it is new: a reference is entered once.

        Raises:
            InputError: if the reference was used for another payment, or the amount is 0 or does not fit.
        """
        if not micros:
            raise InputError("micros", micros, "give the amount in micros; a negative one takes a payment back")
        checked_micros("micros", abs(micros))
        row = {
            **account._asdict(),
            "reference": checked_text("reference", reference),
            "micros": micros,
            "recorded_at": checked_moment("now", now),
        }

        def work(connection: Connection) -> tuple[Payment, AdvertiserAccount, bool]:
            own = and_(payments.c.advertiser_id == account.advertiser_id, payments.c.reference == reference)
            paid = self._lock(connection, account, now)["paid_micros"]
            known = connection.execute(select(payments).where(own)).mappings().first()
            if known is not None:
                stored = Payment(**known)
                if (stored.currency, stored.micros) != (account.currency, micros):
                    remedy = f"it was entered with {stored.micros} micros {stored.currency}: give each payment its own"
                    raise InputError("reference", reference, remedy)
                return stored, _account(connection, account), False
            if abs(paid + micros) > MOST_MICROS:
                raise InputError("micros", micros, f"all payments together may be {MOST_MICROS} at most")
            connection.execute(insert(payments).values(row))
            _record(connection, account, (FieldChange(f"payments[{reference}]", None, micros),), by, now)
            return Payment(**row), _changed(connection, account, {"paid_micros": paid + micros}), True

        return self._database.transact(work, idempotent=True)

    def accounts(self, advertiser_id: str = "", cursor: str = "", limit: int = 100) -> Page[AdvertiserAccount]:
        """Return the accounts of one advertiser, or all, in the order of their names, after `cursor`."""
        order = (advertiser_accounts.c.advertiser_id, advertiser_accounts.c.currency)
        query = _accounts().order_by(*order).limit(checked_limit(limit) + 1)
        if advertiser_id:
            query = query.where(advertiser_accounts.c.advertiser_id == advertiser_id)
        if cursor:
            query = query.where(tuple_(*order) > read_cursor(self._database.cursors, ACCOUNTS, cursor, tuple[str, str]))
        with self._database.read() as connection:
            found = [_described(row) for row in connection.execute(query).mappings()]
        shown = found[:limit]
        last = (shown[-1].advertiser_id, shown[-1].currency) if len(found) > limit else None
        following = write_cursor(self._database.cursors, ACCOUNTS, last) if last else ""
        return Page(items=tuple(shown), cursor=following)

    def payments(self, advertiser_id: str = "", cursor: str = "", limit: int = 100) -> Page[Payment]:
        """Return the payments of one advertiser, or all, newest first, after `cursor`."""
        columns = (payments.c.recorded_at, payments.c.advertiser_id, payments.c.reference)
        query = select(payments).order_by(*(column.desc() for column in columns)).limit(checked_limit(limit) + 1)
        if advertiser_id:
            query = query.where(payments.c.advertiser_id == advertiser_id)
        if cursor:
            key = read_cursor(self._database.cursors, PAYMENTS, cursor, tuple[datetime, str, str])
            query = query.where(tuple_(*columns) < key)
        with self._database.read() as connection:
            found = [Payment(**row) for row in connection.execute(query).mappings()]
        shown = found[:limit]
        last = (shown[-1].recorded_at, shown[-1].advertiser_id, shown[-1].reference) if len(found) > limit else None
        following = write_cursor(self._database.cursors, PAYMENTS, last) if last else ""
        return Page(items=tuple(shown), cursor=following)

    def _lock(self, connection: Connection, account: Account, now: datetime) -> RowMapping:
        """Lock an account, which is opened if there is none."""
        open_account(self._database, connection, account, now, change_mark(connection))
        row = select(advertiser_accounts).where(_is(account)).with_for_update()
        return connection.execute(row).mappings().one()


def named_account(advertiser_id: str, currency: str) -> Account:
    """Return the account that a person names, spelt as in campaigns.

    Raises:
        InputError: if there can be no such advertiser or currency.
    """
    if not CURRENCY.fullmatch(currency):
        raise InputError("currency", currency, "give an ISO 4217 code (USD)")
    return Account(clean_title(advertiser_id, "advertiser_id"), currency)


def _is(account: Account) -> ColumnElement[bool]:
    columns = advertiser_accounts.c
    return and_(columns.advertiser_id == account.advertiser_id, columns.currency == account.currency)


def _record(
    connection: Connection, account: Account, fields: tuple[FieldChange, ...], by: Actor, now: datetime
) -> None:
    record_change(connection, Subject.ACCOUNT, account.currency, account.advertiser_id, fields, by, now)


def _changed(connection: Connection, account: Account, values: dict[str, Any]) -> AdvertiserAccount:
    """Change an account, which routers then read again, and return it."""
    values = values | {"changed_in": change_mark(connection)}
    connection.execute(update(advertiser_accounts).where(_is(account)).values(values))
    return _account(connection, account)


def _accounts() -> Select[Any]:
    columns = advertiser_accounts.c
    return with_charged(
        columns.advertiser_id, columns.currency, columns.credit_limit_micros, columns.paid_micros, columns.opened_at
    )


def _account(connection: Connection, account: Account) -> AdvertiserAccount:
    return _described(connection.execute(_accounts().where(_is(account))).mappings().one())


def _described(row: RowMapping) -> AdvertiserAccount:
    return AdvertiserAccount(
        **row, available_micros=left(row["credit_limit_micros"], row["paid_micros"], row["charged_micros"])
    )
