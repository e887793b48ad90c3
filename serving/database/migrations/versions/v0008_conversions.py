"""Add conversions, and their counters."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table and add the columns."""
    op.create_table(
        "conversions",
        *(Column(name, String, nullable=False) for name in ("id", "click_id", "advertiser_id", "campaign_id", "type")),
        Column("value_micros", BigInteger, nullable=False),
        *(Column(name, DateTime(timezone=True), nullable=False) for name in ("occurred_at", "recorded_at")),
        PrimaryKeyConstraint("id", name=op.f("pk_conversions")),
    )
    op.create_index(op.f("ix_conversions_advertiser_id_occurred_at"), "conversions", ["advertiser_id", "occurred_at"])
    for name in ("conversions", "conversion_value_micros"):
        op.add_column("report_counters", Column(name, BigInteger, nullable=False, server_default="0"))
