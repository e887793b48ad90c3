"""The interaction event of an ended answer, sent to the event log once.

Consent decides what it holds: without consent no question, profile, answer or user id; with it the user id is a
pseudonym. Encoding and sending are left to `streaming.producer`.
"""

from __future__ import annotations

import math

from mechanism.types import AdId, Profile
from mechanism.weights import model_version
from serving.answering.auction_records import AuctionRecord
from serving.answering.rendering import rendered_with_titles
from serving.answering.result import AnswerResult
from serving.auction.offers import Offer
from serving.campaigns.types import Pricing
from streaming.events import (
    CandidateAd,
    Interaction,
    MarkerDraw,
    Participation,
    Reader,
    ReaderProfile,
    Sampling,
    ShownAd,
    Span,
)
from streaming.pseudonyms import pseudonym


def interaction_of(result: AnswerResult, record: AuctionRecord, publisher_id: str, pseudonym_key: bytes) -> Interaction:
    """Build the event of an ended answer from its result and its record."""
    completed, consent = result.completed, result.request.ads.consent
    paid = {payment.ad_id: payment.price_micros for payment in record.payments}
    known = result.offers.keys()
    return Interaction(
        occurred_at=result.request.received_at,
        auction_id=record.auction_id,
        outcome=record.outcome.value,
        placement=record.placement,
        publisher_id=publisher_id,
        currency=record.currency,
        model=record.model[:200],
        model_version=model_version(record.model_digest),
        model_digest=record.model_digest,
        sampling=Sampling(
            seed=record.seed,
            max_ads=result.request.max_ads if result.offers else 0,
            temperature=result.request.limits.temperature,
            max_new_tokens=result.request.limits.max_tokens,
        ),
        candidates=tuple(
            CandidateAd(
                ad_id=candidate.ad_id,
                campaign_id=candidate.campaign_id,
                title=candidate.title,
                text=result.offers[candidate.ad_id].ad.text,
                advertiser=candidate.advertiser,
                category=candidate.category,
                bid_micros=candidate.bid_micros,
                shown_bid_micros=candidate.shown_bid_micros,
                pricing=candidate.pricing.value,
            )
            for candidate in record.candidates
        ),
        markers=tuple(
            MarkerDraw(chosen=marker.chosen, exact=marker.exact, probabilities=_probabilities(marker.probabilities))
            for marker in record.markers
            if marker.chosen in known and marker.probabilities.keys() <= known
        ),
        shown=tuple(
            ShownAd(ad_id=ad.ad_id, pricing=pricing.value, price_micros=_price(result.offers[ad.ad_id], paid))
            for ad in record.shown
            if (pricing := result.offers[ad.ad_id].campaign.pricing)
        ),
        participations=tuple(
            Participation(ad_id=payment.ad_id, price_micros=payment.price_micros)
            for payment in record.payments
            if payment.pricing is Pricing.PARTICIPATION
        ),
        left_out=tuple(record.left_out),
        faults=tuple(record.faults),
        logprob=completed.logprob if completed is not None and math.isfinite(completed.logprob) else None,
        tokens=completed.tokens if completed else 0,
        prompt_tokens=completed.prompt_tokens if completed else 0,
        finished=completed is not None and completed.finished,
        ad_load=record.ad_load,
        overhead_s=max(0.0, result.overhead_s),
        first_token_s=result.first_token_s,
        answer_s=max(0.0, result.seconds),
        consent=consent,
        reader=_reader(result, pseudonym_key) if consent else None,
    )


def _price(offer: Offer, paid: dict[AdId, int]) -> int:
    """Return what a click costs, or what this impression cost."""
    pricing = offer.campaign.pricing
    if pricing is Pricing.CLICK:
        return offer.price
    return paid.get(offer.ad.id, 0) if pricing is Pricing.IMPRESSION else 0


def _probabilities(probabilities: dict[AdId, float]) -> dict[AdId, float]:
    """Clip probabilities to 0..1 and turn non-finite ones into 0.

    Floating-point sums exceed 1 slightly; an event with an invalid number would be refused as a whole, with its
    charges.
    """
    return {ad_id: min(1.0, max(0.0, p)) if math.isfinite(p) else 0.0 for ad_id, p in probabilities.items()}


def _reader(result: AnswerResult, pseudonym_key: bytes) -> Reader:
    question, max_ads = result.request.question, result.request.max_ads if result.offers else 1
    text, spans = rendered_with_titles(result.parsed, result.offers, max_ads)
    return Reader(
        user_id=pseudonym(result.request.ads.user_id, pseudonym_key),
        query=question.query,
        turns=question.turns,
        profile=None if question.profile is None else _profile(question.profile),
        raw=result.parsed.raw,
        text=text,
        spans=tuple(Span(*span) for span in spans if span[0] in result.shown),
    )


def _profile(profile: Profile) -> ReaderProfile:
    return ReaderProfile(
        age=profile.age,
        gender=profile.gender,
        occupation=profile.occupation,
        location=profile.location,
        interests=profile.interests,
        history=profile.history,
    )
