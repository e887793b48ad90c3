"""Add publishers, their placements and keys, and their part of each charge; older charges have none."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, String, text
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the tables and add the columns."""
    op.create_table(
        "publishers",
        Column("id", String, nullable=False),
        Column("share_thousandths", BigInteger, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name=op.f("pk_publishers")),
    )
    op.create_table(
        "placements",
        *(Column(name, String, nullable=False) for name in ("id", "publisher_id")),
        Column("created_at", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("id", name=op.f("pk_placements")),
        ForeignKeyConstraint(["publisher_id"], ["publishers.id"], name=op.f("fk_placements_publisher_id")),
    )
    op.create_index(op.f("ix_placements_publisher_id"), "placements", ["publisher_id"])
    for table in ("api_keys", "charges"):
        op.add_column(table, Column("publisher_id", String, nullable=False, server_default=text("''")))
    op.add_column("charges", Column("publisher_micros", BigInteger, nullable=False, server_default="0"))
    op.create_index(op.f("ix_charges_recorded_at"), "charges", ["recorded_at"])
