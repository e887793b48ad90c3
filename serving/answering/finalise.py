"""What an ended answer leaves behind: its record, payments that no click decides, figures, and its event for the log.

Impressions and taking part are paid by `mechanism.payments` at predicted rates; clicks are charged when they come. The
ledger learns of all of it from the log (`serving.ledger.charging`), never from here.
"""

from __future__ import annotations

import asyncio

import numpy as np
import structlog

from mechanism.payments import impression_payments, participation_payments
from mechanism.types import AdId, Answer, Insertion, Micros
from mechanism.weights import model_version
from serving.answering.answer import LiveAnswer
from serving.answering.auction_records import (
    ApartRecord,
    AuctionLog,
    AuctionRecord,
    CandidateRecord,
    MarkerRecord,
    OwnedRecord,
    PaymentRecord,
    ShownRecord,
)
from serving.answering.interactions import interaction_of
from serving.auction.eligibility import Reason
from serving.auction.rates import insertion_rates
from serving.campaigns.types import Pricing
from streaming.producer import EventProducer

log = structlog.get_logger(__name__)


def settle(live: LiveAnswer, events: EventProducer, kept: AuctionLog, key: bytes) -> None:
    """Called once, when the answer has ended, however it did. `key` makes pseudonyms of user ids."""
    seconds = asyncio.get_running_loop().time() - live.arrived
    shown = list(dict.fromkeys(ad.ad_id for ad in live.ads))
    payments = _payments(live, shown)
    excluded = live.evaluated.counts() if live.evaluated else {}
    record = _record(live, shown, payments, excluded, seconds)
    kept.add(OwnedRecord(record, live.owner, live.evaluated))
    _count(live, record, excluded, seconds)
    events.put(interaction_of(live, record, seconds, key))
    ads = live.question.request.ads
    if ads.consent and ads.user_id:
        for ad_id in shown:
            offer = live.offers[ad_id]
            live.room.marketplace.frequency.record(ads.user_id, offer.campaign, ad_id, live.now.timestamp())
    log.info(
        "answered",
        auction_id=record.auction_id,
        outcome=record.outcome,
        candidates=len(record.candidates),
        shown=len(shown),
        faults=len(record.faults),
        tokens=record.tokens,
        seconds=record.seconds,
    )


def _payments(live: LiveAnswer, shown: list[AdId]) -> list[PaymentRecord]:
    """Payments of this auction for impressions and for taking part; the latter only where the answer came about."""
    rates = live.room.marketplace.rates
    by_kind: dict[Pricing, list[AdId]] = {}
    for ad_id, offer in live.offers.items():
        by_kind.setdefault(offer.campaign.pricing, []).append(ad_id)
    found: dict[AdId, Micros] = {}
    if seen := [ad_id for ad_id in by_kind.get(Pricing.IMPRESSION, ()) if ad_id in shown]:
        bids = {ad_id: live.offers[ad_id].bid for ad_id in seen}
        answer = Answer("", "", tuple(Insertion(ad_id, 0, 0) for ad_id in seen))
        found |= impression_payments(answer, bids, {ad_id: rates.of(ad_id) for ad_id in seen})
    if (parts := by_kind.get(Pricing.PARTICIPATION, [])) and live.done is not None:
        bids = {ad_id: live.offers[ad_id].bid for ad_id in parts}
        inserted = insertion_rates(live.done.choices, parts)
        found |= participation_payments(bids, {ad_id: inserted[ad_id] * rates.of(ad_id) for ad_id in parts})
    return [
        PaymentRecord(ad_id, live.offers[ad_id].campaign.id, live.offers[ad_id].campaign.pricing, price)
        for ad_id, price in found.items()
    ]


def _record(
    live: LiveAnswer, shown: list[AdId], payments: list[PaymentRecord], excluded: dict[Reason, int], seconds: float
) -> AuctionRecord:
    done, evaluated = live.done, live.evaluated
    choices = done.choices if done else ()
    return AuctionRecord(
        auction_id=live.auction_id,
        created=live.created,
        outcome=live.outcome,
        model=live.room.model,
        model_digest=live.digest,
        seed=live.seed,
        currency=live.placement.currency if live.placement else live.room.settings.currency,
        placement=live.question.request.ads.placement,
        profile_used=live.question.profile is not None,
        generations=live.generations,
        campaigns=int(np.count_nonzero(evaluated.used)) if evaluated else 0,
        eligible=evaluated.rows if evaluated else 0,
        excluded={reason.value: count for reason, count in excluded.items()},
        candidates=[
            CandidateRecord(
                offer.ad.id,
                offer.campaign.id,
                offer.ad.title,
                offer.ad.advertiser,
                offer.ad.category,
                offer.bid,
                round(offer.bid * live.load),
                offer.campaign.pricing,
                round(offer.relevance, 4),
            )
            for offer in live.offers.values()
        ],
        apart=[ApartRecord(loss.creative_id, loss.campaign_id, loss.reason, loss.winner) for loss in live.apart],
        markers=[MarkerRecord(c.chosen, c.exact, dict(c.probabilities)) for c in choices],
        shown=[
            ShownRecord(ad_id, live.offers[ad_id].campaign.id, f"{live.auction_id}:{ad_id}", live.offers[ad_id].bid)
            for ad_id in shown
        ],
        payments=payments,
        left_out=live.left_out,
        faults=live.faults,
        ad_load=live.load,
        logprob=done.logprob if done else 0.0,
        tokens=done.tokens if done else 0,
        overhead_ms=round(live.overhead_s * 1000, 3),
        seconds=round(seconds, 3),
    )


def _count(live: LiveAnswer, record: AuctionRecord, excluded: dict[Reason, int], seconds: float) -> None:
    metrics, room, version = live.room.metrics, live.room, model_version(record.model_digest)
    metrics.answers.labels(record.outcome, version).inc()
    metrics.seconds.labels(version).observe(seconds)
    if live.evaluated is None:
        return
    metrics.auctions.inc()
    for reason, count in excluded.items():
        metrics.by_reason[reason].inc(count)
    for loss in record.apart:
        metrics.apart[loss.reason].inc()
    if live.ads:
        metrics.filled.inc()
        metrics.shown.labels(version).inc(len(live.ads))
    if record.outcome == "answered":
        room.answered += 1
        room.shown += len(live.ads)
