"""The campaigns and questions of the router's measurement: many kinds of targeting, reproducible by seed.

No two questions are alike, so that no cache improves the figures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
from sqlalchemy import Connection, insert

from serving.campaigns.stored import row_of
from serving.campaigns.types import (
    BidAdjustment,
    Campaign,
    CampaignState,
    Creative,
    FrequencyCap,
    Pacing,
    ReviewState,
    Targeting,
)
from serving.database.cursors import change_mark
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.database.schema import campaign_spend, campaigns, creatives

CATEGORIES = {
    "shoes": "running trail leather winter hiking light waterproof marathon",
    "audio": "headphones earbuds noise wireless speaker studio bass travel",
    "travel": "hotel flight island mountain city weekend train family",
    "kitchen": "knife pan oven steel cast baking espresso grinder",
    "garden": "seeds mower hose roses soil greenhouse pots shears",
    "fitness": "yoga mat dumbbell bike rowing protein stretch coach",
    "books": "novel history cooking science thriller poetry children audio",
    "software": "backup editor password invoice photo calendar cloud notes",
    "pets": "dog cat food leash aquarium toys brush basket",
    "finance": "savings insurance pension broker card loan tax budget",
}
NOUNS = ("set", "kit", "plan", "offer", "range", "series", "pack", "choice")
BATCH = 1_000
COUNTRIES = ("DE", "FR", "US", "GB", "JP", "BR")


def campaign(number: int, chance: random.Random, now: datetime) -> Campaign:
    """Return live campaign `number`: of ten, three target countries, one a category, one keywords, five everyone."""
    category = chance.choice(list(CATEGORIES))
    words = CATEGORIES[category].split()
    first, second = chance.sample(words, 2)
    kind = number % 10
    targeting = Targeting(
        countries=tuple(chance.sample(COUNTRIES, 2)) if kind < 3 else (),
        categories=(category,) if kind == 3 else (),
        keywords=(first, second) if kind == 4 else (),
    )
    title = f"{first.title()} {second.title()} {chance.choice(NOUNS).title()} {number}"
    creative = Creative(
        id=f"ad-{number}",
        title=title,
        text=f"{first} and {second} for every {category} lover, made to last",
        landing_url=f"https://advertiser-{number % 1_000}.example/{category}/{number}",
    )
    return Campaign(
        id=f"campaign-{number}",
        advertiser_id=f"advertiser-{number % 1_000}",
        name=title,
        category=category,
        state=CampaignState.ACTIVE,
        creatives=(creative,),
        bid_micros=chance.randrange(50_000, 1_000_000),
        currency="USD",
        daily_budget_micros=10**12 if number % 2 else None,
        total_budget_micros=10**14 if number % 3 else None,
        starts_at=now - timedelta(days=1),
        ends_at=now + timedelta(days=30) if number % 4 else None,
        pacing=Pacing.ASAP,
        targeting=targeting,
        campaign_caps=(FrequencyCap(impressions=3, hours=24),) if number % 5 == 0 else (),
        separation=f"{category}-{number % 7}" if number % 6 == 0 else "",
        adjustments=(BidAdjustment(dimension="country", value="DE", thousandths=1_200),) if number % 8 == 0 else (),
        created_at=now,
        updated_at=now,
    )


def fill(url: str, count: int, seed: int = 1) -> Iterator[int]:
    """Book `count` live campaigns with an approved creative each in an empty database; yield the number so far.

    Written in bulk, as `CampaignStore` would have left them, but without history and accounts: one by one, 100,000 take
    longer than the measurement.
    """
    migrate(url)
    database, chance, now = Database(url, pool_size=1), random.Random(seed), datetime.now(UTC)
    try:
        for first in range(0, count, BATCH):
            booked = [approved(campaign(n, chance, now)) for n in range(first, min(first + BATCH, count))]
            database.transact(partial(_write, booked))
            yield first + len(booked)
    finally:
        database.close()


def approved(booked: Campaign) -> Campaign:
    """Return a campaign after the review of its creatives."""
    creatives = tuple(msgspec.structs.replace(one, review=ReviewState.APPROVED) for one in booked.creatives)
    return msgspec.structs.replace(booked, creatives=creatives, version=2)


def _write(booked: list[Campaign], connection: Connection) -> None:
    mark = change_mark(connection)
    rows = [row_of(one) | {"changed_in": mark} for one in booked]
    connection.execute(insert(campaigns), rows)
    spend = [{"campaign_id": one.id, "total_micros": 0, "changed_in": mark} for one in booked]
    connection.execute(insert(campaign_spend), spend)
    connection.execute(insert(creatives), [{"id": c.id, "campaign_id": o.id} for o in booked for c in o.creatives])


def question(number: int) -> str:
    """Return the user's message of request `number`."""
    chance = random.Random(number)
    category = chance.choice(list(CATEGORIES))
    first, second = chance.sample(CATEGORIES[category].split(), 2)
    return f"Question {number}: what should I know about {first} and {second} before I buy {category} this autumn?"


def body(model: str, number: int, stream: bool) -> bytes:
    """Return the request's JSON, as OpenAI clients send it."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": question(number)},
    ]
    return msgspec.json.encode({"model": model, "messages": messages, "stream": stream})
