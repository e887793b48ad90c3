"""Add advertisers' accounts and payments. Advertisers on record keep what they have today: unlimited credit."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the tables, and open an account in each currency in which an advertiser books or was charged."""
    op.create_table(
        "advertiser_accounts",
        *(Column(name, String, nullable=False) for name in ("advertiser_id", "currency")),
        Column("credit_limit_micros", BigInteger, nullable=True),
        Column("paid_micros", BigInteger, nullable=False),
        Column("opened_at", DateTime(timezone=True), nullable=False),
        Column("changed_in", BigInteger, nullable=False),
        PrimaryKeyConstraint("advertiser_id", "currency", name=op.f("pk_advertiser_accounts")),
    )
    op.create_index(op.f("ix_advertiser_accounts_changed_in"), "advertiser_accounts", ["changed_in"])
    op.create_table(
        "payments",
        *(Column(name, String, nullable=False) for name in ("advertiser_id", "reference", "currency")),
        Column("micros", BigInteger, nullable=False),
        Column("recorded_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("advertiser_id", "reference", name=op.f("pk_payments")),
    )
    columns = ["recorded_at", "advertiser_id", "reference"]
    op.create_index(op.f(f"ix_payments_{'_'.join(columns)}"), "payments", columns)
    op.execute(
        "INSERT INTO advertiser_accounts "
        "SELECT advertiser_id, currency, NULL, 0, CURRENT_TIMESTAMP, 0 FROM (SELECT advertiser_id, currency "
        "FROM campaigns UNION SELECT advertiser_id, currency FROM advertiser_totals) AS own"
    )
