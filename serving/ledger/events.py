"""What is reported to the ledger, what it answers, and which events it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, select

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.campaigns.types import Pricing
from serving.database.columns import checked_micros, checked_moment, checked_text
from serving.database.schema import campaigns

# Ten million units for one click; a sum over a million such charges still fits the ledger's columns.
MOST_PRICE = 10**13
MOST_EVENTS = 10_000


class ChargeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that may cost an advertiser money: a click, an impression, or taking part in an auction.

    `id` is the click's id, or auction id and ad id; it is charged once for each `kind`. `price_micros` is what the
    auction decided. `invalid` names why a click does not count (e.g. "prefetch"); such an event is recorded once for
    each reason, charged nothing, and does not stand in the way of a valid one with the same id.
    Raises InputError for what a ledger cannot take.
    """

    id: str
    kind: Pricing = Pricing.CLICK
    auction_id: str
    campaign_id: str
    creative_id: str
    placement: str = ""
    model_version: str = ""
    price_micros: Micros
    currency: str
    occurred_at: datetime
    invalid: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "auction_id", "campaign_id", "creative_id", "currency"):
            checked_text(name, getattr(self, name))
        for name in ("placement", "model_version", "invalid"):
            checked_text(name, getattr(self, name), empty=True)
        checked_micros("price_micros", self.price_micros, MOST_PRICE)
        checked_moment("occurred_at", self.occurred_at)


class Charged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an event. `reason` is empty for a full charge, "budget" where less than the price was charged,
    "invalid:<reason>" where the event did not count. `new` is False where the event was on record before; it may also
    be False where the first try was written and its confirmation lost."""

    id: str
    kind: Pricing
    charged_micros: Micros
    reason: str
    new: bool


class Offset(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer of the event log has come in one partition: where it goes on reading."""

    consumer: str
    partition: int
    next_offset: int


class BadEvents(InputError):
    """Events that no repetition will make right: `rejected` holds (index, error) of each. Nothing was written; the
    caller sets them aside and sends the others again."""

    def __init__(self, rejected: Sequence[tuple[int, InputError]]) -> None:
        self.rejected = tuple(rejected)
        first = rejected[0][1]
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        super().__init__(first.place, first.value, first.remedy + more)


class BadAuctions(BadEvents):
    """The same of auctions that are to be counted."""


class Terms(msgspec.Struct, frozen=True):
    """What of a campaign matters to the ledger."""

    advertiser_id: str
    currency: str
    time_zone: str
    daily_budget_micros: Micros | None
    total_budget_micros: Micros | None


def reason_of(invalid: str, price: Micros, charged: Micros) -> str:
    """Why an event was charged less than its price; empty where it was not."""
    if invalid:
        return f"invalid:{invalid}"
    return "budget" if charged < price else ""


def check_batch_size(events: int) -> None:
    """Raises InputError where there are too many events for one transaction."""
    if events > MOST_EVENTS:
        raise InputError("events", events, f"send {MOST_EVENTS} at most in one batch")


def terms_of(connection: Connection, ids: Iterable[str], used: Sequence[tuple[int, str, str, str]]) -> dict[str, Terms]:
    """Terms by campaign id. `used` holds (index, event id, campaign id, currency or "" for any) of what is charged or
    counted; raises BadEvents where one of them does not fit its campaign."""
    columns = (campaigns.c.id, *(campaigns.c[name] for name in Terms.__struct_fields__))
    found = {row[0]: Terms(*row[1:]) for row in connection.execute(select(*columns).where(campaigns.c.id.in_(ids)))}
    rejected = []
    for index, event_id, campaign_id, currency in used:
        own = found.get(campaign_id)
        if own is None:
            remedy = "there is no such campaign"
            rejected.append((index, InputError(f"campaign of event {event_id}", campaign_id, remedy)))
        elif currency and currency != own.currency:
            remedy = f"the campaign pays in {own.currency}: nothing is converted here"
            rejected.append((index, InputError(f"currency of event {event_id}", currency, remedy)))
    if rejected:
        raise BadEvents(rejected)
    return found
