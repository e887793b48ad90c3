"""What is booked in the ledger: auctions and chargeable events, read from the events of the log, and their results.

Nothing here touches the database; `serving.ledger.charging` books these records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.campaigns.types import Pricing
from serving.database.columns import checked_micros, checked_moment, checked_text
from streaming.events import Click, Interaction, click_id_of

# Ten million units for one event; the sum of a million such charges still fits the ledger's columns.
MOST_PRICE = 10**13


class ChargeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A click, an impression or a participation in an auction, which may cost the advertiser money.

    `id` is the click's id, or auction id and ad id; it is charged once for each `kind`. `price_micros` is the price
    that the auction decided. `invalid` is the reason why a click does not count (such as "prefetch"): the event is
    recorded once for each reason, costs nothing, and does not block the charge of a valid event with the same id.
    `source` is the keyed hash of the address that a click came from. A value that the ledger cannot store is an
    InputError.
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
    source: str = ""

    def __post_init__(self) -> None:
        checked_text("id", self.id)
        checked_text("auction_id", self.auction_id)
        checked_text("campaign_id", self.campaign_id)
        checked_text("creative_id", self.creative_id)
        checked_text("placement", self.placement, empty=True)
        checked_text("model_version", self.model_version, empty=True)
        checked_text("currency", self.currency)
        checked_text("invalid", self.invalid, empty=True)
        checked_text("source", self.source, empty=True)
        checked_micros("price_micros", self.price_micros, MOST_PRICE)
        checked_moment("occurred_at", self.occurred_at)


class ChargeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an event was charged.

    `reason` is empty for a full charge, "budget" if the charge is less than the price (the campaign's budgets or its
    advertiser's account hold no more), "invalid:<reason>" for an event that does not count. `new` is False if the event
    was on record before, and also if the first attempt committed but its confirmation was lost.
    """

    id: str
    kind: Pricing
    charged_micros: Micros
    reason: str
    new: bool


class AuctionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A creative that took part in an auction, and whether the answer showed it."""

    campaign_id: str
    creative_id: str
    shown: bool = False


class Auction(msgspec.Struct, frozen=True, kw_only=True):
    """One auction, as reports count it. A value that the ledger cannot store is an InputError."""

    id: str
    occurred_at: datetime
    placement: str = ""
    model_version: str = ""
    entries: tuple[AuctionEntry, ...] = ()

    def __post_init__(self) -> None:
        checked_text("id", self.id)
        checked_text("placement", self.placement, empty=True)
        checked_text("model_version", self.model_version, empty=True)
        checked_moment("occurred_at", self.occurred_at)


class Offset(msgspec.Struct, frozen=True, kw_only=True):
    """Where a consumer of the event log continues to read a partition.

    `previous` is the offset that must be on record when this one is stored; None: that none is.
    """

    consumer: str
    partition: int
    next_offset: int
    previous: int | None = None


class Terms(msgspec.Struct, frozen=True):
    """The columns of a campaign that the ledger needs."""

    advertiser_id: str
    currency: str
    time_zone: str
    daily_budget_micros: Micros | None
    total_budget_micros: Micros | None
    priority: str


class BadEvents(InputError):
    """Events that no retry can book; nothing of their batch was written.

    `rejected` holds the index and the error of each. The caller removes them and books the others again.
    """

    def __init__(self, rejected: Sequence[tuple[int, InputError]]) -> None:
        self.rejected = tuple(rejected)
        first = rejected[0][1]
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        super().__init__(first.place, first.value, first.remedy + more)


class BadAuctions(BadEvents):
    """Auctions that no retry can book; `rejected` holds their indexes in the batch."""


def reason_of(invalid: str, price: Micros, charged: Micros) -> str:
    """Return why an event was charged less than its price; empty if it was charged in full."""
    if invalid:
        return f"invalid:{invalid}"
    return "budget" if charged < price else ""


def auction_of(event: Interaction) -> Auction | None:
    """Return the auction that reports count.

    None if no ad took part, or if the answer failed before the reader saw anything. Text that no database can store is
    an InputError.
    """
    if not event.candidates or (event.outcome == "failed" and not event.shown):
        return None
    ids = (name for candidate in event.candidates for name in (candidate.ad_id, candidate.campaign_id))
    _check_texts(event.auction_id, (*ids, event.placement, event.model_version))
    shown = {ad.ad_id for ad in event.shown}
    return Auction(
        id=event.auction_id,
        occurred_at=event.occurred_at,
        placement=event.placement,
        model_version=event.model_version,
        entries=tuple(
            AuctionEntry(campaign_id=candidate.campaign_id, creative_id=candidate.ad_id, shown=candidate.ad_id in shown)
            for candidate in event.candidates
        ),
    )


def charges_of_interaction(event: Interaction) -> list[ChargeEvent]:
    """Return what an answer itself costs advertisers: impressions and participations."""
    campaigns = {candidate.ad_id: candidate.campaign_id for candidate in event.candidates}
    paid = [(ad.ad_id, Pricing.IMPRESSION, ad.price_micros) for ad in event.shown if ad.pricing == "impression"]
    paid += [(part.ad_id, Pricing.PARTICIPATION, part.price_micros) for part in event.participations]
    return [
        ChargeEvent(
            id=click_id_of(event.auction_id, ad_id),
            kind=kind,
            auction_id=event.auction_id,
            campaign_id=campaigns[ad_id],
            creative_id=ad_id,
            placement=event.placement,
            model_version=event.model_version,
            price_micros=price,
            currency=event.currency,
            occurred_at=event.occurred_at,
        )
        for ad_id, kind, price in paid
    ]


def charge_of_click(click: Click, model_version: str) -> ChargeEvent:
    """Return what a click costs; `model_version` is that of its auction."""
    _check_texts(click.auction_id, (click.ad_id, click.campaign_id, click.placement, click.reason))
    return ChargeEvent(
        id=click.click_id,
        kind=Pricing.CLICK,
        auction_id=click.auction_id,
        campaign_id=click.campaign_id,
        creative_id=click.ad_id,
        placement=click.placement,
        model_version=model_version,
        price_micros=click.price_micros,
        currency=click.currency,
        occurred_at=click.occurred_at,
        invalid=click.reason,
        source=click.source,
    )


def _check_texts(auction_id: str, texts: Iterable[str]) -> None:
    if "\0" in "".join(texts):
        raise InputError(f"auction {auction_id}", "<text>", "it holds a NUL character, which no database can store")
