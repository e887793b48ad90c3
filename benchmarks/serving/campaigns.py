"""Made-up campaigns in any number, for measurements: a plausible mix of targeting, budgets, caps and reviews.

The same seed makes the same campaigns. Words are drawn with a long tail, as in a language.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from serving.auction.eligibility.request import PlacementRequest
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

NOW = datetime(2026, 6, 10, 15, tzinfo=UTC)
COUNTRIES = ["DE", "FR", "US", "GB", "ES", "IT", "PL", "NL", "JP", "BR"]
LANGUAGES = ["de", "fr", "en", "es", "it", "pl", "nl", "ja", "pt"]
CATEGORIES = [f"category-{i}" for i in range(40)]
PLACEMENTS = [f"placement-{i}" for i in range(20)]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "America/Sao_Paulo"]
VOCABULARY = [f"word{i}" for i in range(20_000)]
_WEIGHTS = [1 / (i + 20) for i in range(len(VOCABULARY))]


def made_campaigns(count: int, creatives: int, seed: int = 1) -> Iterator[Campaign]:
    """`count` campaigns with `creatives` creatives each; nearly all of them live at `NOW`."""
    draw = random.Random(seed)
    for number in range(count):
        yield _campaign(draw, number, creatives)


def made_requests(count: int, seed: int = 2) -> list[PlacementRequest]:
    """Requests of readers with consent and without, within the minute after `NOW`."""
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
