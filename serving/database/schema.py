"""The tables of this version. A test compares them with what `serving.database.migrations` creates.

Money is in micros, days are ISO dates in the campaign's time zone, moments are UTC. `changed_in` is a mark of
`serving.database.cursors.change_mark`. No table holds a user, a query or a secret in plain text.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text, text

from serving.database.columns import Moment, Name

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _name(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Name, nullable=False, primary_key=primary_key)


def _number(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _moment(name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[datetime]:
    return Column(name, Moment, nullable=nullable, primary_key=primary_key)


# `body` is the whole campaign as JSON; the other columns repeat what SQL filters by, sorts by or computes with.
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
    Column("priority", Name, nullable=False, server_default=text("'standard'")),
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

# A used id stays with its campaign after the creative is removed, because charges keep referring to it.
creatives = Table(
    "creatives",
    metadata,
    _name("id", primary_key=True),
    Column("campaign_id", Name, ForeignKey("campaigns.id"), nullable=False, index=True),
)

# Charging locks these rows: it checks budgets and writes totals under the lock.
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

# How an advertiser pays in one currency: a credit limit of 0 is prepaid, none is unlimited. Charging locks limited
# accounts after campaigns, and marks them as changed.
advertiser_accounts = Table(
    "advertiser_accounts",
    metadata,
    _name("advertiser_id", primary_key=True),
    _name("currency", primary_key=True),
    _number("credit_limit_micros", nullable=True),
    _number("paid_micros"),
    _moment("opened_at"),
    _number("changed_in"),
    Index(None, "changed_in"),
)

# Money that advertisers paid in, once by reference. A negative payment takes one back that was entered by mistake.
payments = Table(
    "payments",
    metadata,
    _name("advertiser_id", primary_key=True),
    _name("reference", primary_key=True),
    _name("currency"),
    _number("micros"),
    _moment("recorded_at"),
    Index(None, "recorded_at", "advertiser_id", "reference"),
)

# `invalid` is part of the key: a prefetch, recorded but not charged, must not block the charge of the click after it.
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
    *(Column(name, Name, nullable=False, server_default=text("''")) for name in ("source", "publisher_id")),
    Column("publisher_micros", BigInteger, nullable=False, server_default="0"),
    Index(None, "campaign_id", "day"),
    Index(None, "day", "advertiser_id"),
    Index(None, "auction_id"),
    Index(None, "source", "occurred_at"),
    Index(None, "recorded_at"),
    Index(None, "advertiser_id", "recorded_at"),
)

# Charges that were given back, since their clicks were found invalid later; a charge itself is never changed.
refunds = Table(
    "refunds",
    metadata,
    _name("id", primary_key=True),
    _name("kind", primary_key=True),
    _name("campaign_id"),
    _name("advertiser_id"),
    _name("currency"),
    _number("micros"),
    _name("reason"),
    _moment("recorded_at"),
    Index(None, "recorded_at"),
)

# What readers did after their clicks, as advertisers report it; `id` is a hash of advertiser, type and their own id.
conversions = Table(
    "conversions",
    metadata,
    _name("id", primary_key=True),
    _name("click_id"),
    _name("advertiser_id"),
    _name("campaign_id"),
    _name("type"),
    _number("value_micros"),
    _moment("occurred_at"),
    _moment("recorded_at"),
    Index(None, "advertiser_id", "occurred_at"),
)

# Every auction in the counters below, so that an auction that is reported twice counts once.
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
    *(
        Column(name, BigInteger, nullable=False, server_default="0")
        for name in ("invalid_clicks", "refunded_micros", "conversions", "conversion_value_micros")
    ),
    Index(None, "day", "advertiser_id"),
)

# Auctions counted on two days because their campaigns are in different time zones: on `earlier_day` and again on `day`,
# for one advertiser, or for all (empty).
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

# Counters by UTC hour, for curves over time; by advertiser and not by campaign, so that a year of rows stays small.
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

# Answers that had candidate ads, how many of them showed an ad (`filled`), and how many ads they showed.
hourly_answers = Table(
    "hourly_answers",
    metadata,
    _moment("hour", primary_key=True),
    _name("model_version", primary_key=True),
    _number("answers"),
    _number("filled"),
    _number("shown"),
)

# Records of the routers' newest answers, encoded; without questions, profiles or readers.
auction_records = Table(
    "auction_records",
    metadata,
    _name("id", primary_key=True),
    _name("owner"),
    Column("body", LargeBinary, nullable=False),
    _moment("recorded_at"),
    Index(None, "owner", "id"),
    Index(None, "recorded_at"),
)

# How far a consumer has read the event log; written in the transaction that holds what it read.
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
    Column("publisher_id", Name, nullable=False, server_default=text("''")),
    _name("label"),
    _moment("created_at"),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    _moment("last_used_at", nullable=True),
)

# Who changed what (`serving.campaigns.changes`). Triggers refuse all but new rows; `number` is their order.
_number_of_change = BigInteger().with_variant(Integer, "sqlite")
changes = Table(
    "changes",
    metadata,
    Column("number", _number_of_change, primary_key=True, autoincrement=True),
    *map(_name, ("subject", "subject_id", "advertiser_id")),
    _moment("changed_at"),
    *map(_name, ("by_role", "by_key", "by_name")),
    Column("fields", Text, nullable=False),
    Index(None, "subject", "subject_id", "number"),
    Index(None, "advertiser_id", "number"),
)

publishers = Table(
    "publishers", metadata, _name("id", primary_key=True), _number("share_thousandths"), _moment("created_at")
)

# A placement belongs to one publisher for good, since charges refer to it. `floors` are the lowest bids in micros, by
# currency, as JSON.
placements = Table(
    "placements",
    metadata,
    _name("id", primary_key=True),
    Column("publisher_id", Name, ForeignKey("publishers.id"), nullable=False, index=True),
    _moment("created_at"),
    Column("floors", Text, nullable=False, server_default=text("'{}'")),
)

# What each router's answers cost before the ledger has booked it, so that routers share what is left of budgets and
# accounts: `campaign_id` is a campaign's id or the key of an account (`serving.campaigns.funds.Account`).
accrued_spend = Table(
    "accrued_spend",
    metadata,
    _name("router", primary_key=True),
    _name("campaign_id", primary_key=True),
    _number("micros"),
    _moment("updated_at"),
)

# What readers have seen of campaigns with frequency caps; `reader` is a keyed hash. A row with `reserved_until` belongs
# to an answer that is being written.
capped_impressions = Table(
    "capped_impressions",
    metadata,
    Column("reader", LargeBinary, primary_key=True),
    _name("auction_id", primary_key=True),
    _name("campaign_id"),
    _name("creative_id", primary_key=True),
    _moment("seen_at"),
    _moment("reserved_until", nullable=True),
    _moment("kept_until"),
    Index(None, "kept_until"),
)

# Answers to requests with an Idempotency-Key, kept for a day: `digest` is a keyed hash of the key and its owner,
# `request` one of the request, `answer` is encrypted. `holder` names the request that is being answered, and
# `created_at` is when its router last renewed the claim.
idempotent_requests = Table(
    "idempotent_requests",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("holder", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=True),
    _moment("created_at"),
    _moment("expires_at"),
    Index(None, "expires_at"),
)

# One row, used on SQLite only: `serving.database.cursors.change_mark` counts writers with it.
_only = Column("id", BigInteger, primary_key=True, autoincrement=False)
change_clock = Table("change_clock", metadata, _only, _number("tick"))
