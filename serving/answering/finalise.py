"""Finalise an ended answer: its record, its payments, its metrics, its event for the log, its accrued cost.

Impressions and participation are paid by `mechanism.payments` at predicted rates; a click is charged when it comes. The
ledger reads all of it from the event log (`serving.ledger`), never from here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from mechanism.objective import Penalty, s_resp
from mechanism.payments import impression_payments, participation_payments
from mechanism.types import AdId, Answer, Insertion, Micros
from mechanism.weights import model_version, served_version
from serving.accounts.publishers import PlacementDirectory
from serving.answering.auction_records import (
    AnswerOutcome,
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
from serving.answering.result import AnswerResult
from serving.auction.eligibility import Reason
from serving.auction.marketplace import Marketplace
from serving.auction.rates import ClickRates, insertion_rates
from serving.campaigns.types import Pricing
from serving.cohorts import CountedAnswer
from serving.metrics import Metrics
from streaming.producer import EventProducer

log = structlog.get_logger(__name__)

PENALTY = Penalty()
"""Penalty of an answer's insertions as the canary's guard compares them."""


@dataclass(slots=True)
class AdsPerAnswer:
    """Complete answers with an auction, and the ads shown in them, since the ad load was last adjusted."""

    answers: int = 0
    ads: int = 0


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where results go. `pseudonym_key` makes the pseudonyms of user ids in events."""

    records: AuctionLog
    events: EventProducer
    metrics: Metrics
    marketplace: Marketplace
    ads_per_answer: AdsPerAnswer
    placements: PlacementDirectory
    pseudonym_key: bytes


def finalise(result: AnswerResult, sinks: Sinks) -> None:
    """Record and bill an answer; called once per answer, however it ended."""
    excluded = result.evaluation.counts if result.evaluation else {}
    record = _record(result, _payments(result, sinks.marketplace.rates), excluded)
    sinks.records.add(OwnedRecord(record, result.request.owner, result.evaluation))
    _count(result, record, excluded, sinks)
    _accrue(result, record, sinks.marketplace)
    sinks.events.put(interaction_of(result, record, sinks.placements.owner(record.placement), sinks.pseudonym_key))
    log.info(
        "answer.finalised",
        auction_id=record.auction_id,
        outcome=record.outcome.value,
        candidates=len(record.candidates),
        shown=len(record.shown),
        faults=len(record.faults),
        tokens=record.tokens,
        seconds=record.seconds,
    )


def _accrue(result: AnswerResult, record: AuctionRecord, market: Marketplace) -> None:
    """Count the answer's cost against budgets until the ledger books it."""
    now = time.time()
    for payment in record.payments:
        market.accrue(result.offers[payment.ad_id], payment.price_micros, now)
    for ad_id in result.shown:
        if result.offers[ad_id].campaign.pricing is Pricing.CLICK:
            market.accrue(result.offers[ad_id], None, now)


def _payments(result: AnswerResult, rates: ClickRates) -> list[PaymentRecord]:
    """Return the payments for impressions that reached the reader, and for participation in an answer that did."""
    by_pricing: dict[Pricing, list[AdId]] = {}
    for ad_id, offer in result.offers.items():
        by_pricing.setdefault(offer.campaign.pricing, []).append(ad_id)
    prices: dict[AdId, Micros] = {}
    if seen := [ad_id for ad_id in by_pricing.get(Pricing.IMPRESSION, ()) if ad_id in result.shown]:
        bids = {ad_id: result.offers[ad_id].price for ad_id in seen}
        answer = Answer("", "", tuple(Insertion(ad_id, 0, 0) for ad_id in seen))
        prices |= impression_payments(answer, bids, {ad_id: rates.of(ad_id) for ad_id in seen})
    parts = by_pricing.get(Pricing.PARTICIPATION, [])
    if parts and result.completed is not None and result.delivered:
        bids = {ad_id: result.offers[ad_id].price for ad_id in parts}
        inserted = insertion_rates(result.completed.choices, parts)
        prices |= participation_payments(bids, {ad_id: inserted[ad_id] * rates.of(ad_id) for ad_id in parts})
    campaigns = {ad_id: result.offers[ad_id].campaign for ad_id in prices}
    return [
        PaymentRecord(ad_id, campaigns[ad_id].id, campaigns[ad_id].pricing, price) for ad_id, price in prices.items()
    ]


def _record(result: AnswerResult, payments: list[PaymentRecord], excluded: Mapping[Reason, int]) -> AuctionRecord:
    request, completed, evaluation = result.request, result.completed, result.evaluation
    choices = completed.choices if completed else ()
    return AuctionRecord(
        auction_id=request.auction_id,
        created=request.created,
        outcome=result.outcome,
        model=result.model,
        model_digest=result.digest,
        seed=request.seed,
        currency=result.currency,
        placement=request.ads.placement,
        floor_micros=result.floor,
        profile_used=request.question.profile is not None,
        generations=result.generations,
        withheld=result.withheld,
        campaigns=evaluation.campaign_count if evaluation else 0,
        eligible=evaluation.eligible_count if evaluation else 0,
        excluded={reason.value: count for reason, count in excluded.items()},
        candidates=[
            CandidateRecord(
                ad_id=offer.ad.id,
                campaign_id=offer.campaign.id,
                title=offer.ad.title,
                advertiser=offer.ad.advertiser,
                category=offer.ad.category,
                bid_micros=offer.bid,
                shown_bid_micros=request.shown_bid(offer),
                pricing=offer.campaign.pricing,
                priority=offer.campaign.priority,
                relevance=round(offer.relevance, 4),
            )
            for offer in result.offers.values()
        ],
        apart=[ApartRecord(loss.creative_id, loss.campaign_id, loss.reason, loss.winner) for loss in result.apart],
        markers=[MarkerRecord(c.chosen, c.exact, dict(c.probabilities)) for c in choices],
        shown=[_shown(result, ad_id) for ad_id in result.shown],
        payments=payments,
        left_out=list(result.left_out),
        faults=result.faults,
        ad_load=request.ad_load,
        logprob=completed.logprob if completed else 0.0,
        tokens=completed.tokens if completed else 0,
        overhead_ms=round(result.overhead_s * 1000, 3),
        seconds=round(result.seconds, 3),
    )


def _shown(result: AnswerResult, ad_id: AdId) -> ShownRecord:
    """Return the record of an ad; its first link has the title and label that the reader saw."""
    links = [ad for ad in result.ads if ad.ad_id == ad_id]
    return ShownRecord(
        ad_id=ad_id,
        campaign_id=links[0].campaign_id,
        advertiser=links[0].advertiser,
        title=links[0].title,
        label=links[0].label,
        spans=[link.span for link in links],
        click_id=f"{result.request.auction_id}:{ad_id}",
        bid_micros=result.offers[ad_id].bid,
    )


def _count(result: AnswerResult, record: AuctionRecord, excluded: Mapping[Reason, int], sinks: Sinks) -> None:
    metrics, version = sinks.metrics, model_version(record.model_digest)
    metrics.answers.labels(record.outcome.value, version).inc()
    metrics.seconds.labels(version).observe(result.seconds)
    if record.outcome is not AnswerOutcome.CANCELLED:
        metrics.cohorts.count_answer(_counted(result, record))
    if result.withheld:
        metrics.withheld.labels(result.withheld).inc()
    if result.evaluation is None:
        return
    metrics.auctions.inc()
    for reason, count in excluded.items():
        metrics.by_reason[reason].inc(count)
    for loss in record.apart:
        metrics.apart[loss.reason].inc()
    if result.ads:
        metrics.filled.inc()
        metrics.shown.labels(version).inc(len(result.ads))
    if record.outcome is AnswerOutcome.ANSWERED:
        sinks.ads_per_answer.answers += 1
        sinks.ads_per_answer.ads += len(result.ads)


def _counted(result: AnswerResult, record: AuctionRecord) -> CountedAnswer:
    """Return what a canary's guard counts of an answer; an ad that is shown twice has one penalty."""
    shown = tuple(Insertion(ad_id, 0, 0) for ad_id in result.shown)
    return CountedAnswer(
        auction_id=record.auction_id,
        created=record.created,
        version=served_version(record.model_digest, result.revision),
        failed=record.outcome is not AnswerOutcome.ANSWERED,
        asked_for_ads=bool(record.candidates),
        shown=len(shown),
        seconds=result.seconds,
        penalty=s_resp(Answer("", "", shown, result.parsed.faults), PENALTY),
        revenue=sum(payment.price_micros for payment in record.payments),
        currency=record.currency,
    )
