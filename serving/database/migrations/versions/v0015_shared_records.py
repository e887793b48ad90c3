"""Add the records of auctions that routers share."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, DateTime, LargeBinary, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "auction_records",
        *(Column(name, String, nullable=False) for name in ("id", "owner")),
        Column("body", LargeBinary, nullable=False),
        Column("recorded_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name=op.f("pk_auction_records")),
    )
    op.create_index(op.f("ix_auction_records_owner_id"), "auction_records", ["owner", "id"])
    op.create_index(op.f("ix_auction_records_recorded_at"), "auction_records", ["recorded_at"])
