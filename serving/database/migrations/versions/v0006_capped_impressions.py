"""Add the impressions that frequency caps count. Until now each router counted its own, in memory."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, DateTime, LargeBinary, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "capped_impressions",
        Column("reader", LargeBinary, nullable=False),
        *(Column(name, String, nullable=False) for name in ("auction_id", "campaign_id", "creative_id")),
        Column("seen_at", DateTime(timezone=True), nullable=False),
        Column("reserved_until", DateTime(timezone=True), nullable=True),
        Column("kept_until", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("reader", "auction_id", "creative_id", name=op.f("pk_capped_impressions")),
    )
    op.create_index(op.f("ix_capped_impressions_kept_until"), "capped_impressions", ["kept_until"])
