"""The interaction event of an ended answer: what the log is told of it, once, after its last frame.

Consent decides: without it no question, no profile, no answer and no reader stands in the event; with it the reader is
a pseudonym. Encoding and sending are `streaming.producer`'s.
"""

from __future__ import annotations

import math

from mechanism.types import AdId, Profile
from mechanism.weights import model_version
from serving.answering.answer import LiveAnswer
from serving.answering.auction_records import AuctionRecord
from serving.answering.rendering import as_read
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


def interaction_of(live: LiveAnswer, record: AuctionRecord, answer_s: float, key: bytes) -> Interaction:
    """The event of an answer that ended. `key` makes pseudonyms of user ids."""
    done, ads = live.done, live.question.request.ads
    paid = {payment.ad_id: payment.price_micros for payment in record.payments}
    known = live.offers.keys()
    return Interaction(
        occurred_at=live.now,
        auction_id=record.auction_id,
        outcome=record.outcome,  # type: ignore[arg-type]  # the record's words are the event's
        placement=record.placement,
        currency=record.currency,
        model=record.model[:200],
        model_version=model_version(record.model_digest),
        model_digest=record.model_digest,
        sampling=Sampling(seed=record.seed, max_ads=live.max_ads if live.offers else 0),
        candidates=tuple(
            CandidateAd(
                ad_id=candidate.ad_id,
                campaign_id=candidate.campaign_id,
                title=candidate.title,
                text=live.offers[candidate.ad_id].ad.text,
                advertiser=candidate.advertiser,
                category=candidate.category,
                bid_micros=candidate.bid_micros,
                shown_bid_micros=candidate.shown_bid_micros,
                pricing=candidate.pricing.value,
            )
            for candidate in record.candidates
        ),
        markers=tuple(
            MarkerDraw(chosen=marker.chosen, exact=marker.exact, probabilities=_shares(marker.probabilities))
            for marker in record.markers
            if marker.chosen in known and marker.probabilities.keys() <= known
        ),
        shown=tuple(
            ShownAd(ad_id=ad.ad_id, pricing=pricing.value, price_micros=_price(pricing, ad.bid_micros, paid, ad.ad_id))
            for ad in record.shown
            if (pricing := live.offers[ad.ad_id].campaign.pricing)
        ),
        participations=tuple(
            Participation(ad_id=payment.ad_id, price_micros=payment.price_micros)
            for payment in record.payments
            if payment.pricing is Pricing.PARTICIPATION
        ),
        left_out=tuple(record.left_out),
        faults=tuple(record.faults),
        logprob=done.logprob if done is not None and math.isfinite(done.logprob) else None,
        tokens=done.tokens if done else 0,
        prompt_tokens=done.prompt_tokens if done else 0,
        finished=done is not None and done.finished,
        ad_load=record.ad_load,
        overhead_s=max(0.0, live.overhead_s),
        first_token_s=live.first_token_s,
        answer_s=max(0.0, answer_s),
        consent=ads.consent,
        reader=_reader(live, key) if ads.consent else None,
    )


def _price(pricing: Pricing, bid: int, paid: dict[AdId, int], ad_id: AdId) -> int:
    """What a click costs, or what this showing did."""
    if pricing is Pricing.CLICK:
        return bid
    return paid.get(ad_id, 0) if pricing is Pricing.IMPRESSION else 0


def _shares(probabilities: dict[AdId, float]) -> dict[AdId, float]:
    """As the policy said, less what a sum of floats adds past 1. An event with a number that is none would be refused
    as a whole, and its charges with it."""
    return {ad_id: min(1.0, max(0.0, p)) if math.isfinite(p) else 0.0 for ad_id, p in probabilities.items()}


def _reader(live: LiveAnswer, key: bytes) -> Reader:
    question, answer = live.question, live.parsed
    text, spans = as_read(answer, live.offers, live.max_ads if live.offers else 1)
    return Reader(
        user_id=pseudonym(question.request.ads.user_id, key),
        query=question.query,
        turns=question.turns,
        profile=None if question.profile is None else _profile(question.profile),
        raw=answer.raw,
        text=text,
        spans=tuple(Span(*span) for span in spans),
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
