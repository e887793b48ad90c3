"""Add the answers to requests with an Idempotency-Key."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, DateTime, LargeBinary
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "idempotent_requests",
        *(Column(name, LargeBinary, nullable=False) for name in ("digest", "request", "holder")),
        Column("answer", LargeBinary, nullable=True),
        *(Column(name, DateTime(timezone=True), nullable=False) for name in ("created_at", "expires_at")),
        PrimaryKeyConstraint("digest", name=op.f("pk_idempotent_requests")),
    )
    op.create_index(op.f("ix_idempotent_requests_expires_at"), "idempotent_requests", ["expires_at"])
