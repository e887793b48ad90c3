"""Served traffic for tests of retraining: a real policy answers, the simulator's users click, and the rows stand in
real shards, written as the feedback worker writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.streaming.event_samples import auction_id, generated_interaction
from inference.policy import Policy
from mechanism.types import AdId, Context, Generation
from simulator.clicks import ClickModel
from simulator.world import World
from streaming.events import (
    JudgedAd,
    Judgement,
    Reader,
    ReaderProfile,
    Sampling,
    Span,
)
from streaming.shards import Row
from streaming.shards.manifest import Progress, Totals
from streaming.shards.store import ShardStore
from streaming.shards.writer import PartitionWriter

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
        row(seed * 1_000_000 + n, begin + timedelta(seconds=n * every_s), c, s, g, own, digest, sampling, rng)
        for n, (c, s, g, own) in enumerate(zip(made, seen, answers, clicks, strict=True))
    ]


def row(
    number: int,
    at: datetime,
    made: Context,
    seen: Context,
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
        auction, at, made, generation, sampling, digest, currency="EUR", reader=reader, seen=seen
    )
    ads = tuple(
        JudgedAd(ad_id=ad, clicked=hit, clicked_after_s=min(WINDOW_S, float(rng.exponential(60.0))) if hit else None)
        for ad, hit in clicks.items()
    )
    judgement = Judgement(
        occurred_at=at + timedelta(seconds=WINDOW_S),
        auction_id=auction,
        answered_at=at,
        window_s=WINDOW_S,
        judge="rules",
        judge_version="1",
        revision=sum(clicks.values()),
        ads=ads,
        answer_quality=0.8,
    )
    return Row(event, judgement)


def write(url: str, rows: Sequence[Row], watermark: datetime | None = None) -> None:
    """Appends rows to partition 0; `watermark` defaults to a window after the last of them."""
    writer = PartitionWriter(ShardStore(url), 0)
    start = writer.manifest.progress.judgements
    mark = watermark or rows[-1].interaction.occurred_at + timedelta(seconds=WINDOW_S)
    progress = Progress(interactions=start + len(rows), judgements=start + len(rows), watermark=mark)
    added = Totals(judgements=len(rows), rows=len(rows), auctions=len(rows), clicks=sum(r.clicks for r in rows))
    writer.append(rows, (start, start + len(rows)), progress, added)
