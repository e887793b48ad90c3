"""Add refunds, the sources of clicks, and counters of invalid clicks and refunds; older clicks have no source."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, String, text
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table and add the columns."""
    op.add_column("charges", Column("source", String, nullable=False, server_default=text("''")))
    op.create_index(op.f("ix_charges_source_occurred_at"), "charges", ["source", "occurred_at"])
    op.create_table(
        "refunds",
        *(Column(name, String, nullable=False) for name in ("id", "kind", "campaign_id", "advertiser_id", "currency")),
        Column("micros", BigInteger, nullable=False),
        Column("reason", String, nullable=False),
        Column("recorded_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", "kind", name=op.f("pk_refunds")),
    )
    op.create_index(op.f("ix_refunds_recorded_at"), "refunds", ["recorded_at"])
    for name in ("invalid_clicks", "refunded_micros"):
        op.add_column("report_counters", Column(name, BigInteger, nullable=False, server_default="0"))
