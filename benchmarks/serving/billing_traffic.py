"""The billing drill's traffic and writers: tight budgets, and clicks that repeat, come late and out of order.

Everything follows from a seed. Each writer is a process that charges the events of its own file (JSON lines), as the
ledger worker would. A writer that was killed reads its file from the start again, like a consumer without an offset:
only the ledger keeps events from counting twice.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from serving.campaigns.types import Campaign, CampaignState
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import ChargeEvent, Offset

START = datetime(2026, 11, 20, tzinfo=UTC)
SPAN = timedelta(days=3)
LATEST = timedelta(hours=36)
ZONES = ("UTC", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Auckland")
DUPLICATED, LATE, INVALID = 0.2, 0.1, 0.02
CAMPAIGNS, ADVERTISERS = 200, 40

CONSUMER = "drill"
LARGEST_BATCH = 200
RETRY_S = 120.0
"""Longer than any outage of the drill: a writer waits until the database is back."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The campaigns, and a file of events for each writer."""

    campaigns: tuple[Campaign, ...]
    files: tuple[Path, ...]
    events: int
    duplicates: int
    late: int


def write_events(folder: Path, events: int, writers: int, seed: int) -> Plan:
    """Write `events` different clicks on up to 200 campaigns, and their duplicates, to the writers' files.

    Prices are odd numbers of micros, so that budgets run out in the middle of a price and the last charge is partial.
    """
    chance = random.Random(seed)
    number = max(4, min(CAMPAIGNS, events // 25))
    late = set(chance.sample(range(events), round(events * LATE)))
    clicks = [_click(chance, n, events, chance.randrange(number), n in late) for n in range(events)]
    repeated = chance.sample(range(events), round(events * DUPLICATED))
    # (position in the stream, writer, event): a duplicate comes later, mostly through another writer
    stream = [(float(n), chance.randrange(writers), click) for n, click in enumerate(clicks)]
    stream += [(chance.uniform(n, events), chance.randrange(writers), clicks[n]) for n in repeated]
    stream.sort(key=lambda item: item[0])
    files = tuple(folder / f"events-{writer:02d}.jsonl" for writer in range(writers))
    for writer, path in enumerate(files):
        path.write_bytes(b"".join(msgspec.json.encode(click) + b"\n" for _, w, click in stream if w == writer))
    campaigns = tuple(_campaigns(chance, number, clicks))
    return Plan(campaigns=campaigns, files=files, events=events, duplicates=len(repeated), late=len(late))


def _click(chance: random.Random, number: int, events: int, campaign: int, late: bool) -> ChargeEvent:
    occurred_at = START + number / events * SPAN
    if late:
        occurred_at -= chance.random() * LATEST
    return ChargeEvent(
        id=f"click-{number}",
        auction_id=f"auction-{number}",
        campaign_id=f"campaign-{campaign}",
        creative_id=f"creative-{campaign}-{chance.randrange(3)}",
        placement=chance.choice(("chat", "search")),
        model_version=chance.choice(("m1", "m2")),
        price_micros=chance.randint(1, 1_000_003),
        currency=_currency(campaign),
        occurred_at=occurred_at,
        invalid="bot" if chance.random() < INVALID else "",
    )


def _campaigns(chance: random.Random, number: int, clicks: Iterable[ChargeEvent]) -> Iterable[Campaign]:
    """Yield campaigns: a quarter each without budget, with a daily, a total and both, below the sum of their clicks."""
    spend: dict[str, int] = defaultdict(int)
    for click in clicks:
        spend[click.campaign_id] += click.price_micros
    for n in range(number):
        own = spend[f"campaign-{n}"]
        yield Campaign(
            id=f"campaign-{n}",
            advertiser_id=f"advertiser-{n % ADVERTISERS}",
            name=f"Campaign {n}",
            category="drill",
            state=CampaignState.ACTIVE,
            bid_micros=500_000,
            currency=_currency(n),
            daily_budget_micros=chance.randint(own // 12, own // 3) if n % 4 in (1, 3) else None,
            total_budget_micros=chance.randint(own // 4, own * 5 // 4) if n % 4 in (2, 3) else None,
            starts_at=START - LATEST,
            time_zone=chance.choice(ZONES),
            created_at=START,
            updated_at=START,
        )


def _currency(campaign: int) -> str:
    return "EUR" if campaign % ADVERTISERS % 3 else "USD"


def charge_file(url: str, path: Path, partition: int) -> None:
    """Charge all events of a file in batches of random size, each with the offset after it."""
    chance = random.Random()
    database = Database(url, pool_size=1, retry_s=RETRY_S)
    ledger, decoder = Ledger(database), msgspec.json.Decoder(ChargeEvent)
    events = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    done, stored = 0, ledger.next_offset(CONSUMER, partition)
    while done < len(events):
        batch = events[done : done + chance.randint(1, LARGEST_BATCH)]
        done += len(batch)
        offset = Offset(consumer=CONSUMER, partition=partition, next_offset=done, previous=stored)
        ledger.book(batch, offsets=[offset])
        stored = done
    database.close()
