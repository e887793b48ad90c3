"""Count each auction once per report line: one counter per kind of line, and a table of auctions on two days.

Old rows keep their figures, in which an auction counts once per creative: the auctions behind them were not stored.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, String
from sqlalchemy.schema import PrimaryKeyConstraint

revision = "0002"
down_revision = "0001"

ADDED = ("campaign_auctions", "advertiser_auctions", "all_auctions")
KEY = ("advertiser_id", "currency", "placement", "day", "earlier_day", "model_version")


def upgrade() -> None:
    """Rename the counter of creatives, add the other counters and the table."""
    with op.batch_alter_table("report_counters") as table:
        table.alter_column("auctions", new_column_name="creative_auctions")
        for name in ADDED:
            table.add_column(Column(name, BigInteger, nullable=True))
    op.execute(f"UPDATE report_counters SET {', '.join(f'{name} = creative_auctions' for name in ADDED)}")
    with op.batch_alter_table("report_counters") as table:
        for name in ADDED:
            table.alter_column(name, existing_type=BigInteger, nullable=False)
    op.create_table(
        "auction_overlaps",
        *(Column(name, String, nullable=False) for name in KEY),
        Column("auctions", BigInteger, nullable=False),
        PrimaryKeyConstraint(*KEY, name=op.f("pk_auction_overlaps")),
    )
