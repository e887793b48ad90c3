"""The first schema: campaigns, spend, charges, counters for reports, API keys.

It is frozen, so it shares no code with `serving.database.schema`, which changes with every version.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, LargeBinary, String, Text
from sqlalchemy.schema import PrimaryKeyConstraint, SchemaItem, UniqueConstraint

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    _table(
        "campaigns",
        *_names("id", "advertiser_id", "name_folded", "category", "state", "currency", "time_zone"),
        *_numbers("daily_budget_micros", "total_budget_micros", nullable=True),
        _moment("ends_at", nullable=True),
        _moment("created_at"),
        *_numbers("version", "changed_in"),
        Column("body", Text, nullable=False),
        key=["id"],
    )
    _index("campaigns", "advertiser_id", "created_at", "id")
    _index("campaigns", "created_at", "id")
    _index("campaigns", "changed_in")
    _table("creatives", *_names("id", "campaign_id"), _of_campaign("creatives"), key=["id"])
    _index("creatives", "campaign_id")
    _table(
        "campaign_spend",
        *_names("campaign_id"),
        *_numbers("total_micros", "changed_in"),
        _of_campaign("campaign_spend"),
        key=["campaign_id"],
    )
    _index("campaign_spend", "changed_in")
    _table("campaign_days", *_names("campaign_id", "day"), *_numbers("micros"), key=["campaign_id", "day"])
    _table(
        "advertiser_totals",
        *_names("advertiser_id", "currency"),
        *_numbers("charged_micros", "charges"),
        key=["advertiser_id", "currency"],
    )
    _table(
        "charges",
        *_names("id", "kind", "invalid", "auction_id", "campaign_id", "advertiser_id", "creative_id", "placement"),
        *_names("model_version", "currency"),
        *_numbers("price_micros", "charged_micros"),
        _moment("occurred_at"),
        *_names("day"),
        _moment("recorded_at"),
        key=["id", "kind", "invalid"],
    )
    _index("charges", "campaign_id", "day")
    _index("charges", "day", "advertiser_id")
    _index("charges", "auction_id")
    _table("auctions", *_names("id", "placement", "model_version"), _moment("occurred_at"), key=["id"])
    _table(
        "report_counters",
        *_names("campaign_id", "creative_id", "placement", "day", "model_version", "advertiser_id", "currency"),
        *_numbers("auctions", "impressions", "clicks", "charged_clicks", "revenue_micros"),
        key=["campaign_id", "creative_id", "placement", "day", "model_version"],
    )
    _index("report_counters", "day", "advertiser_id")
    _table(
        "consumer_offsets",
        *_names("consumer"),
        *_numbers("partition", "next_offset"),
        key=["consumer", "partition"],
    )
    _table(
        "api_keys",
        *_names("id", "role", "advertiser_id", "label"),
        Column("digest", LargeBinary, nullable=False),
        _moment("created_at"),
        *(_moment(name, nullable=True) for name in ("expires_at", "revoked_at", "last_used_at")),
        UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
        key=["id"],
    )
    _table("change_clock", *_numbers("id", "tick"), key=["id"])
    op.execute("INSERT INTO change_clock (id, tick) VALUES (1, 0)")


def _table(name: str, *items: SchemaItem, key: list[str]) -> None:
    op.create_table(name, *items, PrimaryKeyConstraint(*key, name=op.f(f"pk_{name}")))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def _of_campaign(table: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f(f"fk_{table}_campaign_id"))


def _names(*names: str) -> list[Column[str]]:
    return [Column(name, String, nullable=False) for name in names]


def _numbers(*names: str, nullable: bool = False) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=nullable, autoincrement=False) for name in names]


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)
