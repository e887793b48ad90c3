"""The ledger of charges, in SQL: one charge per click id, its record and the advertiser's total in one transaction.

SQLite through SQLAlchemy 2 for now; budgets, reports and PostgreSQL come on top of the same two tables.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, Engine, create_engine, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mechanism.types import Micros
from serving.tokens import Click

BUSY_TIMEOUT_S = 15


class _Base(DeclarativeBase):
    pass


class ChargeRow(_Base):
    """One billed click, kept forever."""

    __tablename__ = "charges"

    click_id: Mapped[str] = mapped_column(primary_key=True)
    auction_id: Mapped[str] = mapped_column(index=True)
    ad_id: Mapped[str] = mapped_column(index=True)
    advertiser: Mapped[str]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    charged_at: Mapped[str]


class AccountRow(_Base):
    """What an advertiser owes: always the sum of its charges."""

    __tablename__ = "accounts"

    advertiser: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    owed_micros: Mapped[int] = mapped_column(BigInteger)
    clicks: Mapped[int] = mapped_column(BigInteger)


class Charge(msgspec.Struct, frozen=True):
    """A charge as reports show it; `charged_at` is UTC in ISO 8601."""

    click_id: str
    auction_id: str
    ad_id: str
    advertiser: str
    amount_micros: Micros
    currency: str
    charged_at: str


class Account(msgspec.Struct, frozen=True):
    """An advertiser's total in one currency."""

    advertiser: str
    currency: str
    owed_micros: Micros
    clicks: int


class Report(msgspec.Struct, frozen=True):
    """Totals over the whole ledger, and the newest of the charges that were asked for."""

    revenue_micros: dict[str, Micros]
    clicks: int
    accounts: list[Account]
    charges: list[Charge]


class Ledger:
    """The charges of one database file. Safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(self._engine, "connect", _on_connect)
        event.listen(self._engine, "begin", _on_begin)
        _Base.metadata.create_all(self._engine)

    def charge(self, click: Click, advertiser: str) -> bool:
        """Charges the click's price once. False where this click id was charged before: nothing is changed then."""
        row = {
            "click_id": click.id,
            "auction_id": click.auction_id,
            "ad_id": click.ad_id,
            "advertiser": advertiser,
            "amount_micros": click.price,
            "currency": click.currency,
            "charged_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with self._engine.begin() as connection:
            new = connection.execute(insert(ChargeRow).values(row).on_conflict_do_nothing()).rowcount == 1
            if new:
                _add_to_account(connection, advertiser, click)
        return new

    def report(self, limit: int = 100, click_id: str = "", auction_id: str = "") -> Report:
        """Totals, and up to `limit` charges, newest first, of one click or one auction where asked."""
        chosen = select(ChargeRow.__table__).order_by(ChargeRow.charged_at.desc(), ChargeRow.click_id).limit(limit)
        if click_id:
            chosen = chosen.where(ChargeRow.click_id == click_id)
        if auction_id:
            chosen = chosen.where(ChargeRow.auction_id == auction_id)
        accounts = select(AccountRow.__table__).order_by(AccountRow.owed_micros.desc(), AccountRow.advertiser)
        totals = select(AccountRow.currency, func.sum(AccountRow.owed_micros)).group_by(AccountRow.currency)
        with self._engine.begin() as connection:
            return Report(
                revenue_micros={currency: int(micros) for currency, micros in connection.execute(totals)},
                clicks=connection.execute(select(func.count()).select_from(ChargeRow)).scalar_one(),
                accounts=[Account(*row) for row in connection.execute(accounts)],
                charges=[Charge(*row) for row in connection.execute(chosen)],
            )

    def ready(self) -> bool:
        """Whether the database answers."""
        with self._engine.begin() as connection:
            return connection.execute(select(func.count()).select_from(AccountRow)).scalar_one() >= 0

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()


def _add_to_account(connection: Connection, advertiser: str, click: Click) -> None:
    first = insert(AccountRow).values(advertiser=advertiser, currency=click.currency, owed_micros=click.price, clicks=1)
    grown = {"owed_micros": AccountRow.owed_micros + click.price, "clicks": AccountRow.clicks + 1}
    connection.execute(first.on_conflict_do_update(index_elements=["advertiser", "currency"], set_=grown))


def _on_connect(connection: Any, record: Any) -> None:
    """Durable write-ahead log; transactions are begun by us, since the driver would begin them too late."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _on_begin(connection: Connection) -> None:
    """Takes the write lock at once: a lock taken halfway fails with "database is locked" instead of waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
