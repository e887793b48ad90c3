"""Add the floors of placements; those that are registered have none."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text, text

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column."""
    op.add_column("placements", Column("floors", Text, nullable=False, server_default=text("'{}'")))
