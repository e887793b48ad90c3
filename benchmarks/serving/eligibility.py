"""`python -m benchmarks.serving.eligibility`: the time from a request to its offers, step by step.

Measures the rules one by one, the index, retrieval and selection on synthetic campaigns with a plausible mix of
targeting, budgets, caps and reviews; the same seed makes the same campaigns. Vectors are drawn around topics, so no
model is needed and the encoder's time is not included. Processor time is reported beside wall-clock time, which other
work on the machine lengthens. Figures go to build/bench/eligibility.json.
"""

from __future__ import annotations

import platform
import random
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figures import write_figures
from serving.answering.auction_records import EvaluationSummary
from serving.auction.eligibility import EligibilityIndex, PlacementRequest, ReachedCaps, rules
from serving.auction.offers import choose_offers
from serving.auction.retrieval import CreativeIndex
from serving.campaigns.types import (
    BidAdjustment,
    Campaign,
    CampaignState,
    Creative,
    Daypart,
    FrequencyCap,
    Pacing,
    ReviewState,
    Targeting,
)

WIDTH = 384
TOPICS = 400
SEARCHED, SHOWN = 60, 20
COUNTED = ReachedCaps(countable=True)
Vectors = NDArray[np.float32]

NOW = datetime(2026, 6, 10, 15, tzinfo=UTC)
COUNTRIES = ["DE", "FR", "US", "GB", "ES", "IT", "PL", "NL", "JP", "BR"]
LANGUAGES = ["de", "fr", "en", "es", "it", "pl", "nl", "ja", "pt"]
CATEGORIES = [f"category-{i}" for i in range(40)]
PLACEMENTS = [f"placement-{i}" for i in range(20)]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "America/Sao_Paulo"]
VOCABULARY = [f"word{i}" for i in range(20_000)]
_WEIGHTS = [1 / (i + 20) for i in range(len(VOCABULARY))]


def main(
    campaigns: Annotated[int, typer.Option(help="Campaigns in the index.")] = 10_000,
    creatives: Annotated[int, typer.Option(help="Creatives of each campaign.")] = 10,
    requests: Annotated[int, typer.Option(help="Requests to the index.")] = 400,
    naive: Annotated[int, typer.Option(help="Requests to the rules one by one.")] = 5,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/eligibility.json"),
) -> None:
    """Build the indices, then measure each step of the same requests."""
    console = Console()
    made = list(track(made_campaigns(campaigns, creatives), "campaigns", total=campaigns, console=console))
    index, found = EligibilityIndex(), CreativeIndex(WIDTH)
    topics = _unit(np.random.default_rng(1).standard_normal((TOPICS, WIDTH)))
    indexing = _timed(lambda one: _index(index, found, one, topics), list(track(made, "index", console=console)))
    if (clustering := found.start_clustering()) is not None:
        clustering.run()
        found.adopt(clustering)
    placements = made_requests(requests)
    for number, campaign in enumerate(made):
        index.set_participation(campaign.id, 0.5 if number % 3 else 1.0)
    evaluate: Callable[[PlacementRequest], Any] = lambda r: index.evaluate(r, COUNTED)  # noqa: E731
    list(map(evaluate, placements[:20]))
    evaluations = [evaluate(request) for request in placements]
    questions = _unit(
        topics[np.arange(len(placements)) % TOPICS]
        + 0.03 * np.random.default_rng(2).standard_normal((len(placements), WIDTH))
    )
    by_words = [(r.query, None, e, SEARCHED) for r, e in zip(placements, evaluations, strict=True)]
    by_both = [(r.query, q, e, SEARCHED) for r, q, e in zip(placements, questions, evaluations, strict=True)]
    hits = [found.search(*b) for b in by_both]
    participation = {c.id: index.participation(c.id) for c in made}
    steps = {
        "rules_one_by_one": _timed(
            lambda r: rules.evaluate(made, r, {}, participation, COUNTED, {}), placements[:naive]
        ),
        "eligibility": _timed(evaluate, placements),
        "eligibility_after_a_charge": _timed(lambda r: _after_a_charge(index, made, r), placements),
        "exclusion_of_every_creative": _timed(lambda e: EvaluationSummary.of(e).exclusions(), evaluations[:20]),
        "retrieval_words": _timed(lambda b: found.search(*b), by_words),
        "retrieval_words_and_vectors": _timed(lambda b: found.search(*b), by_both),
        "selection": _timed(lambda h: choose_offers(h, SHOWN), hits),
        "campaign_change": _timed(lambda c: _index(index, found, c, topics), made[:200]),
        "first_load_per_campaign": indexing,
    }
    figures = {
        "campaigns": campaigns,
        "creatives": campaigns * creatives,
        "eligible_creatives_mean": float(np.mean([len(e) for e in evaluations])),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "microseconds": {name: _quantiles(times) for name, times in steps.items()},
    }
    columns = ["cpu_p50", "cpu_p99", "wall_p50", "wall_p99"]
    table = Table("µs", *columns, title=f"{campaigns:,} campaigns, {campaigns * creatives:,} creatives")
    for name, times in steps.items():
        table.add_row(name.replace("_", " "), *(f"{_quantiles(times)[c]:,.0f}" for c in columns))
    console.print(table)
    write_figures(out, figures)


def _index(index: EligibilityIndex, found: CreativeIndex, campaign: Campaign, topics: Vectors) -> None:
    """Put a campaign into both indices, as the router does."""
    if index.get(campaign.id) is not None:
        found.remove(index.rows_of(campaign.id))
    index.put(campaign)
    noise = np.random.default_rng(int(campaign.id[1:]))
    picked = topics[noise.integers(0, TOPICS, len(campaign.creatives))]
    vectors = _unit(picked + 0.04 * noise.standard_normal(picked.shape))
    found.put(index.rows_of(campaign.id), campaign.creatives)
    found.put_vectors(index.rows_of(campaign.id), vectors)


def _after_a_charge(index: EligibilityIndex, made: list[Campaign], request: PlacementRequest) -> None:
    """Evaluate a request after the cost of another answer was accrued."""
    number = zlib.crc32(request.auction_id.encode())
    index.set_accrued(made[number % len(made)].id, 1 + number % 100)
    index.evaluate(request, COUNTED)


def _timed(step: Callable[[Any], Any], inputs: list[Any]) -> list[tuple[float, float]]:
    """Return the microseconds of each call: processor time of this thread, and wall-clock time."""
    times = []
    for one in inputs:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        step(one)
        times.append(((time.thread_time_ns() - cpu) / 1_000, (time.perf_counter_ns() - wall) / 1_000))
    return times


def _quantiles(times: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = np.array(times).T
    figures = {"cpu_p50": (cpu, 50), "cpu_p99": (cpu, 99), "wall_p50": (wall, 50), "wall_p99": (wall, 99)}
    return {name: round(float(np.percentile(values, q)), 1) for name, (values, q) in figures.items()}


def _unit(vectors: NDArray[Any]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def made_campaigns(count: int, creatives: int, seed: int = 1) -> Iterator[Campaign]:
    """Yield `count` campaigns with `creatives` creatives each; nearly all of them are live at `NOW`."""
    draw = random.Random(seed)
    for number in range(count):
        yield _campaign(draw, number, creatives)


def made_requests(count: int, seed: int = 2) -> list[PlacementRequest]:
    """Return requests of readers with and without consent, within the minute after `NOW`."""
    draw = random.Random(seed)
    return [
        PlacementRequest(
            auction_id=f"auction-{i}",
            now=NOW + timedelta(seconds=60 * i / count),
            currency="EUR",
            country=draw.choice(COUNTRIES),
            language=draw.choice(LANGUAGES),
            category=draw.choice(CATEGORIES),
            placement=draw.choice(PLACEMENTS),
            query=" ".join(_words(draw, 12)),
            user_id=f"reader-{i}",
            consent=draw.random() < 0.7,
            user_blocked_categories=frozenset(draw.sample(CATEGORIES, 2)),
            floor_micros=20_000,
        )
        for i in range(count)
    ]


def _campaign(draw: random.Random, number: int, creatives: int) -> Campaign:
    def sometimes(share: float, values: list[str], most: int) -> tuple[str, ...]:
        return tuple(draw.sample(values, draw.randint(1, most))) if draw.random() < share else ()

    capped = draw.random() < 0.3
    return Campaign(
        id=f"C{number}",
        advertiser_id=f"advertiser-{number // 4}",
        name=f"campaign {number}",
        category=draw.choice(CATEGORIES),
        state=CampaignState.ACTIVE if draw.random() < 0.97 else CampaignState.PAUSED,
        creatives=tuple(_creative(draw, number, i) for i in range(creatives)),
        bid_micros=draw.randint(10_000, 900_000),
        currency="EUR",
        daily_budget_micros=draw.randint(1, 100) * 1_000_000,
        starts_at=NOW - timedelta(days=10),
        ends_at=NOW + timedelta(days=draw.randint(1, 60)),
        time_zone=draw.choice(ZONES),
        dayparts=(Daypart(days=tuple(range(7)), from_hour=6, to_hour=23),) if draw.random() < 0.2 else (),
        pacing=Pacing.EVEN,
        targeting=Targeting(
            countries=sometimes(0.6, COUNTRIES, 4),
            languages=sometimes(0.4, LANGUAGES, 3),
            categories=sometimes(0.3, CATEGORIES, 8),
            keywords=sometimes(0.15, VOCABULARY[:2_000], 20),
            placements=sometimes(0.1, PLACEMENTS, 6),
        ),
        campaign_caps=(FrequencyCap(impressions=3, hours=24),) if capped else (),
        separation=f"group-{draw.randrange(200)}" if draw.random() < 0.3 else "",
        block_categories=sometimes(0.1, CATEGORIES, 2),
        adjustments=(BidAdjustment(dimension="country", value=draw.choice(COUNTRIES), thousandths=1_250),)
        if draw.random() < 0.2
        else (),
        created_at=NOW - timedelta(days=11),
        updated_at=NOW - timedelta(days=11),
    )


def _creative(draw: random.Random, number: int, place: int) -> Creative:
    return Creative(
        id=f"A{number}.{place}",
        title=" ".join(_words(draw, 3)),
        text=" ".join(_words(draw, 12)),
        landing_url="https://advertiser.example/",
        review=ReviewState.APPROVED if draw.random() < 0.95 else ReviewState.PENDING,
    )


def _words(draw: random.Random, count: int) -> list[str]:
    return draw.choices(VOCABULARY, cum_weights=_CUMULATED, k=count)


def _cumulated() -> list[float]:
    total, sums = 0.0, []
    for weight in _WEIGHTS:
        sums.append(total := total + weight)
    return sums


_CUMULATED = _cumulated()


if __name__ == "__main__":
    typer.run(main)
