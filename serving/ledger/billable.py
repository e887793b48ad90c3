"""What the ledger is to know of an event: the auction that it counts, and what is charged for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mechanism.errors import InputError
from serving.campaigns.types import Pricing
from serving.ledger.auctions import Auction, Entry
from serving.ledger.events import ChargeEvent
from streaming.events import Click, Interaction, click_id_of


def auction_of(event: Interaction) -> Auction | None:
    """The auction that reports count; None where nobody took part, or the answer failed before anything was seen, which
    counts for nobody. Raises InputError for text that no database can hold."""
    if not event.candidates or (event.outcome == "failed" and not event.shown):
        return None
    ids = (name for candidate in event.candidates for name in (candidate.ad_id, candidate.campaign_id))
    _check(event.auction_id, (*ids, event.placement, event.model_version))
    shown = {ad.ad_id for ad in event.shown}
    return Auction(
        id=event.auction_id,
        occurred_at=event.occurred_at,
        placement=event.placement,
        model_version=event.model_version,
        entries=tuple(
            Entry(campaign_id=candidate.campaign_id, creative_id=candidate.ad_id, shown=candidate.ad_id in shown)
            for candidate in event.candidates
        ),
    )


def charges_of(event: Interaction) -> list[ChargeEvent]:
    """What an auction itself makes ads pay: for being shown, and for taking part. Raises InputError."""
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


def charge_of(click: Click, model_version: str) -> ChargeEvent:
    """What a click costs, under the model version of its auction. Raises InputError."""
    _check(click.auction_id, (click.ad_id, click.campaign_id, click.placement, click.reason))
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
    )


def _check(auction_id: str, texts: Iterable[str]) -> None:
    if "\0" in "".join(texts):
        raise InputError(f"auction {auction_id}", "<text>", "it holds a NUL character, which no database can keep")
