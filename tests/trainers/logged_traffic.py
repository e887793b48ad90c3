"""Served traffic for tests of retraining: a real policy answers, the simulator's users click, and the rows stand in a
real lake, written as the lake worker writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.streaming.event_samples import auction_id, click, generated_interaction
from inference.policy import Policy
from mechanism.types import AdId, Context, Generation
from simulator.clicks import ClickModel
from simulator.world import World
from streaming.events import (
    GradedAd,
    Judgement,
    Reader,
    ReaderProfile,
    Sampling,
    Span,
)
from streaming.lake import Row
from streaming.lake.schema import Stored
from streaming.lake.store import Lake
from streaming.lake.table import LakeTable, Mark
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS

BEGINNING = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
WINDOW_S = 1800.0
TRUTH = ClickModel()


def served(
    policy: Policy,
    world: World,
    count: int,
    *,
    digest: str,
    seed: int = 0,
    candidates: int = 4,
    begin: datetime = BEGINNING,
    every_s: float = 10.0,
    shuffled: bool = False,
    rate: float | None = None,
    ad_load: float = 1.0,
    max_ads: int = 3,
) -> list[Row]:
    """`count` judged interactions, one every `every_s` seconds. Users click with the simulator's probabilities, or
    with `rate` on every ad; `shuffled` gives the clicks to other ads."""
    rng = np.random.default_rng([seed, 77])
    queries = [world.train_queries[i] for i in rng.integers(len(world.train_queries), size=count)]
    made = [world.sample_context(q, rng, candidates) for q in queries]
    seen = [c.with_bids({ad: round(bid * ad_load) for ad, bid in c.bids().items()}) for c in made]
    settings = replace(policy.sampling, max_ads=max_ads)
    answers = [own[0] for own in policy.generate(seen, 1, seed, settings)]
    clicks: list[dict[AdId, bool]] = []
    for context, generation in zip(made, answers, strict=True):
        shown = generation.answer.shown()
        chances = dict.fromkeys(shown, rate) if rate is not None else TRUTH.probabilities(context, generation.answer)
        clicks.append({ad: bool(rng.random() < float(chances.get(ad) or 0.0)) for ad in shown})
    if shuffled:
        flat = iter(rng.permutation([hit for own in clicks for hit in own.values()]).tolist())
        clicks = [{ad: bool(next(flat)) for ad in own} for own in clicks]
    sampling = Sampling(
        seed=seed,
        max_ads=max_ads,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
    )
    return [
        row(seed * 1_000_000 + n, begin + timedelta(seconds=n * every_s), c, ad_load, g, own, digest, sampling, rng)
        for n, (c, g, own) in enumerate(zip(made, answers, clicks, strict=True))
    ]


def row(
    number: int,
    at: datetime,
    made: Context,
    ad_load: float,
    generation: Generation,
    clicks: dict[AdId, bool],
    digest: str,
    sampling: Sampling,
    rng: np.random.Generator,
) -> Row:
    """One judged interaction; clicked ads were clicked after a while of an exponential distribution."""
    answer, profile, auction = generation.answer, made.profile, auction_id(number, at)
    assert profile is not None
    reader = Reader(
        query=made.query,
        turns=made.turns,
        raw=answer.raw,
        text=answer.text,
        spans=tuple(Span(i.ad_id, i.start, i.end) for i in answer.insertions),
        profile=ReaderProfile(interests=profile.interests, location=profile.location),
    )
    event = generated_interaction(
        auction, at, made, generation, sampling, digest, currency="EUR", reader=reader, ad_load=ad_load
    )
    judgement = Judgement(
        occurred_at=at + timedelta(seconds=1),
        auction_id=auction,
        answered_at=at,
        judge="rules",
        judge_version="1",
        ads=tuple(GradedAd(ad_id=ad, relevance=0.5, nativeness=0.5) for ad in clicks),
        answer_quality=0.8,
    )
    # to the microsecond, as events have it
    delays = {ad: round(min(WINDOW_S, float(rng.exponential(60.0))), 6) for ad, hit in clicks.items() if hit}
    return Row(event, judgement, delays, WINDOW_S)


def write(url: str, rows: Sequence[Row], watermark: datetime | None = None) -> None:
    """Appends rows to partition 0; `watermark` defaults to a window after the last of them."""
    mark = watermark or rows[-1].interaction.occurred_at + timedelta(seconds=WINDOW_S)
    events = {
        INTERACTIONS: [row.interaction for row in rows],
        CLICKS: [click(row.interaction, ad, delay) for row in rows for ad, delay in row.clicked_after_s.items()],
        JUDGEMENTS: [row.judgement for row in rows if row.judgement],
    }
    for topic, own in events.items():
        table = LakeTable(Lake(url), topic, "log")
        start = table.own([0]).get(0, 0)
        stored = [Stored(event, None, event.occurred_at, "log", 0, start + n) for n, event in enumerate(own)]
        table.append(stored, {0: Mark(start + len(own), mark)})
