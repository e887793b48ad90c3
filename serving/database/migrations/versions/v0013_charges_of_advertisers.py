"""Add an index of charges by advertiser and time, which statements read."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Create the index."""
    columns = ["advertiser_id", "recorded_at"]
    op.create_index(op.f(f"ix_charges_{'_'.join(columns)}"), "charges", columns)
