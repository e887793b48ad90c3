"""The tables. How they came to be is `serving.database.migrations`; a test holds the two together.

Money is in micros, days are ISO dates in the campaign's time zone, moments are UTC. `changed_in` is a mark of
`serving.campaigns.changes`. Nothing here holds a user, a query or a secret in clear.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.exc import DontWrapMixin

from mechanism.errors import InputError

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so the zone is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, without the zone where the database would lose it anyway."""
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Always aware, always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class BadText(InputError, DontWrapMixin):
    """Text that a database cannot keep or compare with."""


class Name(TypeDecorator[str]):
    """Text that both databases can hold. What they cannot (NUL, half of a surrogate pair) is the caller's bad input,
    whichever query it comes through; it must not end as the driver's error."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text itself. Raises BadText."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise BadText("text", value, "it holds a NUL character or half of a surrogate pair: send valid UTF-8")
        return value


def _name(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Name, nullable=False, primary_key=primary_key)


def _number(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _moment(name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[datetime]:
    return Column(name, Moment, nullable=nullable, primary_key=primary_key)


# `body` is the whole record as JSON; the other columns repeat what SQL filters, sorts or computes with.
campaigns = Table(
    "campaigns",
    metadata,
    _name("id", primary_key=True),
    _name("advertiser_id"),
    _name("name_folded"),
    _name("category"),
    _name("state"),
    _name("currency"),
    _name("time_zone"),
    _number("daily_budget_micros", nullable=True),
    _number("total_budget_micros", nullable=True),
    _moment("ends_at", nullable=True),
    _moment("created_at"),
    _number("version"),
    _number("changed_in"),
    Column("body", Text, nullable=False),
    Index(None, "advertiser_id", "created_at", "id"),
    Index(None, "created_at", "id"),
    Index(None, "changed_in"),
)

# An id once used stays with its campaign, also when the creative is gone: charges refer to it for ever.
creatives = Table(
    "creatives",
    metadata,
    _name("id", primary_key=True),
    Column("campaign_id", Name, ForeignKey("campaigns.id"), nullable=False, index=True),
)

# The row that a charge locks: budgets are checked and totals written under it.
campaign_spend = Table(
    "campaign_spend",
    metadata,
    Column("campaign_id", Name, ForeignKey("campaigns.id"), primary_key=True),
    _number("total_micros"),
    _number("changed_in"),
    Index(None, "changed_in"),
)

campaign_days = Table(
    "campaign_days", metadata, _name("campaign_id", primary_key=True), _name("day", primary_key=True), _number("micros")
)

advertiser_totals = Table(
    "advertiser_totals",
    metadata,
    _name("advertiser_id", primary_key=True),
    _name("currency", primary_key=True),
    _number("charged_micros"),
    _number("charges"),
)

# `invalid` belongs to the key: a prefetch that is not charged must not keep the click after it from being charged.
charges = Table(
    "charges",
    metadata,
    _name("id", primary_key=True),
    _name("kind", primary_key=True),
    _name("invalid", primary_key=True),
    _name("auction_id"),
    _name("campaign_id"),
    _name("advertiser_id"),
    _name("creative_id"),
    _name("placement"),
    _name("model_version"),
    _name("currency"),
    _number("price_micros"),
    _number("charged_micros"),
    _moment("occurred_at"),
    _name("day"),
    _moment("recorded_at"),
    Index(None, "campaign_id", "day"),
    Index(None, "day", "advertiser_id"),
    Index(None, "auction_id"),
)

# Every auction that is counted below, so that one reported twice counts once.
auctions = Table(
    "auctions",
    metadata,
    _name("id", primary_key=True),
    _moment("occurred_at"),
    _name("placement"),
    _name("model_version"),
)

report_counters = Table(
    "report_counters",
    metadata,
    _name("campaign_id", primary_key=True),
    _name("creative_id", primary_key=True),
    _name("placement", primary_key=True),
    _name("day", primary_key=True),
    _name("model_version", primary_key=True),
    _name("advertiser_id"),
    _name("currency"),
    *(_number(f"{scope}_auctions") for scope in ("creative", "campaign", "advertiser", "all")),
    _number("impressions"),
    _number("clicks"),
    _number("charged_clicks"),
    _number("revenue_micros"),
    Index(None, "day", "advertiser_id"),
)

# Auctions whose campaigns were at different days, which counted on `earlier_day` and again on `day`: of one advertiser,
# or (empty) of all.
auction_overlaps = Table(
    "auction_overlaps",
    metadata,
    _name("advertiser_id", primary_key=True),
    _name("currency", primary_key=True),
    _name("placement", primary_key=True),
    _name("day", primary_key=True),
    _name("earlier_day", primary_key=True),
    _name("model_version", primary_key=True),
    _number("auctions"),
)

# The same by UTC hour, for curves over time: coarser in whose it is, so that a year stays small.
hourly_counters = Table(
    "hourly_counters",
    metadata,
    _moment("hour", primary_key=True),
    _name("advertiser_id", primary_key=True),
    _name("currency", primary_key=True),
    _name("model_version", primary_key=True),
    _number("impressions"),
    _number("clicks"),
    _number("charged_clicks"),
    _number("revenue_micros"),
)

# Answers that had candidates, how many of them showed an ad (`filled`), and how many ads.
hourly_answers = Table(
    "hourly_answers",
    metadata,
    _moment("hour", primary_key=True),
    _name("model_version", primary_key=True),
    _number("answers"),
    _number("filled"),
    _number("shown"),
)

# How far a consumer of the event log has come: written with what it wrote, so that both are there or neither is.
consumer_offsets = Table(
    "consumer_offsets",
    metadata,
    _name("consumer", primary_key=True),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    _number("next_offset"),
)

api_keys = Table(
    "api_keys",
    metadata,
    _name("id", primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    _name("role"),
    _name("advertiser_id"),
    _name("label"),
    _moment("created_at"),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    _moment("last_used_at", nullable=True),
)

# One row, on SQLite alone: `serving.campaigns.changes` counts writers with it.
_only = Column("id", BigInteger, primary_key=True, autoincrement=False)
change_clock = Table("change_clock", metadata, _only, _number("tick"))
