"""Synthetic interactions and clicks, reproducible by number, for drills, benchmarks and tests of the workers.

They do not model how readers behave: `simulator` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from mechanism.types import Context, Generation
from streaming.events import (
    CandidateAd,
    Click,
    Interaction,
    MarkerDraw,
    Reader,
    ReaderProfile,
    Sampling,
    ShownAd,
    Span,
    click_id_of,
)
from streaming.log import to_ms

BEGINNING = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
ADS = ("Trail Boots", "Rain Shell", "Camp Stove")
CLICK_RATE = 0.3


def auction_id(number: int, at: datetime) -> str:
    """Return a UUIDv7 that holds the time and the number."""
    ms, noise = to_ms(at) & (1 << 48) - 1, Random(number).getrandbits(12)
    bits = ms << 80 | 7 << 76 | noise << 64 | 2 << 62 | number & (1 << 62) - 1
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def generated_interaction(
    auction: str,
    at: datetime,
    context: Context,
    generation: Generation,
    sampling: Sampling,
    digest: str,
    *,
    currency: str,
    reader: Reader | None,
    ad_load: float = 1.0,
    answer_s: float = 0.0,
) -> Interaction:
    """Return the event of a policy's answer, as `serving.answering.interactions` records it.

    `context` has the bids as they were made; the policy saw them times `ad_load`.
    """
    return Interaction(
        occurred_at=at,
        auction_id=auction,
        outcome="answered",
        currency=currency,
        ad_load=ad_load,
        model="llm-auction",
        model_version=digest[:16],
        model_digest=digest,
        sampling=sampling,
        candidates=tuple(
            CandidateAd(
                ad_id=c.ad.id,
                campaign_id=f"c-{c.ad.id}",
                title=c.ad.title,
                text=c.ad.text,
                advertiser=c.ad.advertiser,
                category=c.ad.category,
                bid_micros=c.bid,
                shown_bid_micros=round(c.bid * ad_load),
                pricing="click",
            )
            for c in context.candidates
        ),
        markers=tuple(
            MarkerDraw(chosen=c.chosen, probabilities=dict(c.probabilities), exact=c.exact) for c in generation.choices
        ),
        shown=tuple(
            ShownAd(ad_id=ad, pricing="click", price_micros=context.bids()[ad]) for ad in generation.answer.shown()
        ),
        faults=tuple(fault.kind for fault in generation.answer.faults),
        logprob=generation.logprob,
        tokens=len(generation.token_ids),
        finished=generation.finished,
        answer_s=answer_s,
        consent=reader is not None,
        reader=reader,
    )


def interaction(
    number: int, at: datetime = BEGINNING, *, user: str = "", reader: bool = True, shown: int = 2
) -> Interaction:
    """Return answer `number` with three candidates, of which the first `shown` are in the text."""
    titles = ADS[:shown]
    text = f"For walk {number} on wet hills take " + " and ".join(titles) + ", warm socks and a map."
    raw = text
    for i, title in enumerate(titles):
        raw = raw.replace(title, f"@{title}@[A{i}]")
    spans = tuple(Span(f"A{i}", text.index(title), text.index(title) + len(title)) for i, title in enumerate(titles))
    chance = 1 / len(ADS)
    return Interaction(
        occurred_at=at,
        auction_id=auction_id(number, at),
        outcome="answered",
        currency="EUR",
        model="tiny",
        model_version="1",
        model_digest="0" * 64,
        sampling=Sampling(seed=number, max_ads=3, temperature=1.0),
        candidates=tuple(
            CandidateAd(
                ad_id=f"A{i}",
                campaign_id=f"c{i}",
                title=title,
                text=f"{title} for walks in wet weather",
                bid_micros=200_000 + i,
                shown_bid_micros=100_000 + i,
                pricing="click",
            )
            for i, title in enumerate(ADS)
        ),
        markers=tuple(
            MarkerDraw(chosen=f"A{i}", probabilities={f"A{k}": chance for k in range(len(ADS))}) for i in range(shown)
        ),
        shown=tuple(ShownAd(ad_id=f"A{i}", pricing="click", price_micros=200_000 + i) for i in range(shown)),
        logprob=-12.5,
        tokens=30,
        prompt_tokens=200,
        finished=True,
        consent=reader,
        reader=Reader(
            user_id=user,
            query="What do I wear for a walk on wet hills?",
            raw=raw,
            text=text,
            spans=spans,
            profile=ReaderProfile(interests=("hiking",)) if user else None,
        )
        if reader
        else None,
    )


def clicks(event: Interaction, number: int, within_s: float = 60.0) -> Iterator[Click]:
    """Yield the valid clicks on answer `number`: on each shown ad with CLICK_RATE, within `within_s` seconds."""
    chance = Random(number)
    for shown in event.shown:
        after_s, clicked = chance.uniform(0.5, within_s), chance.random() < CLICK_RATE
        if clicked:
            yield click(event, shown.ad_id, after_s)


def click(event: Interaction, ad_id: str, after_s: float, *, reason: str = "") -> Click:
    """Return a click on an ad of an answer; a `reason` makes it invalid."""
    campaign = next(candidate.campaign_id for candidate in event.candidates if candidate.ad_id == ad_id)
    return Click(
        occurred_at=event.occurred_at + timedelta(seconds=after_s),
        click_id=click_id_of(event.auction_id, ad_id),
        auction_id=event.auction_id,
        ad_id=ad_id,
        campaign_id=campaign,
        verdict="invalid" if reason else "valid",
        reason=reason,
        price_micros=0 if reason else 200_000,
        currency=event.currency,
        model_version=event.model_version,
    )
