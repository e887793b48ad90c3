"""Add counters by hour, for curves over time. They start empty: earlier impressions were not counted by hour."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create both tables."""
    _table(
        "hourly_counters",
        ("advertiser_id", "currency", "model_version"),
        ("impressions", "clicks", "charged_clicks", "revenue_micros"),
    )
    _table("hourly_answers", ("model_version",), ("answers", "filled", "shown"))


def _table(name: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> None:
    op.create_table(
        name,
        Column("hour", DateTime(timezone=True), nullable=False),
        *(Column(column, String, nullable=False) for column in names),
        *(Column(column, BigInteger, nullable=False, autoincrement=False) for column in numbers),
        PrimaryKeyConstraint("hour", *names, name=op.f(f"pk_{name}")),
    )
