"""Add the priority of campaigns; those that are booked are standard ones."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String, text

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.add_column("campaigns", Column("priority", String, nullable=False, server_default=text("'standard'")))
