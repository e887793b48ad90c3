"""Add the spend of each router that the ledger has not booked."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "accrued_spend",
        *(Column(name, String, nullable=False) for name in ("router", "campaign_id")),
        Column("micros", BigInteger, nullable=False),
        Column("updated_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("router", "campaign_id", name=op.f("pk_accrued_spend")),
    )
