"""Individual rationality of what the ledger charged: signed links followed, screened, booked and read back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import update

from mechanism.properties import Charge, IndividualRationality, individual_rationality
from mechanism.types import Micros
from serving.accounts.publishers import PlacementDirectory, PublisherStore
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import ReviewState
from serving.clicks.decision import ClickRules
from serving.clicks.invalid_traffic import ClickRequest, ClickScreen
from serving.clicks.tokens import ClickClaims, TokenSigner
from serving.database.engine import Database
from serving.database.schema import charges
from serving.ledger.charging import Ledger
from serving.ledger.entries import charge_of_click
from serving.reports.reports import charges_of
from tests.serving.database.samples import NOW, campaign, creative

SECRET = b"one secret that is long enough to be one"
BROWSER = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
ADVERTISERS, AUCTIONS = 3, 40
SEEN = int(NOW.timestamp())


class Placed(NamedTuple):
    """An ad in an answer, with its advertiser's value of a click and the bid that it made of it."""

    claims: ClickClaims
    value: Micros
    bid: Micros


def advertise(store: CampaignStore) -> None:
    """Store one campaign an advertiser; the budgets of the last end in the middle of the test."""
    for number in range(ADVERTISERS):
        limited: dict[str, Any] = {"total_budget_micros": 1_000_003} if number == ADVERTISERS - 1 else {}
        store.create(campaign(number, creatives=(creative(f"A{number}"),), **limited), NOW)
        store.review(f"A{number}", ReviewState.APPROVED, NOW)


def shaded(seed: int) -> list[Placed]:
    """Place every ad in every auction, at bids between a tenth of the value and all of it."""
    chance, placed = Random(seed), []
    for number in range(AUCTIONS):
        for advertiser in range(ADVERTISERS):
            value = chance.randrange(1, 2_000_000)
            bid = chance.choice((value, chance.randrange(value // 10, value + 1)))
            claims = ClickClaims(
                auction_id=str(UUID(int=number)),
                ad_id=f"A{advertiser}",
                price=bid,
                currency="EUR",
                expires=SEEN + 3600,
                campaign_id=f"c{advertiser}",
                issued=SEEN,
            )
            placed.append(Placed(claims, value, bid))
    return placed


async def follow(database: Database, placed: Sequence[Placed], seed: int) -> None:
    """Follow the links as readers, prefetchers and impatient fingers do, some of them again and again, and book it."""
    signer, chance = TokenSigner(SECRET), Random(seed)
    placements = PlacementDirectory(PublisherStore(database))
    # No campaign is in the router's memory: the rules find them in the database.
    market: Any = SimpleNamespace(index={})
    rules = ClickRules(signer, ClickScreen(SECRET), market, CampaignStore(database), placements)
    for own in placed:
        token, events = signer.sign(own.claims), []
        for _ in range(chance.randrange(4)):
            headers = BROWSER | ({"purpose": "prefetch"} if chance.random() < 0.3 else {})
            after_s = chance.choice((0.2, 5.0, 60.0, 7200.0))
            decision = await rules.decide(token, ClickRequest("GET", headers), SEEN + after_s)
            assert decision.event is not None
            events.append(charge_of_click(decision.event, "m1"))
        if events:
            Ledger(database).book(events)


def charged(database: Database, placed: Sequence[Placed]) -> IndividualRationality:
    """Judge the ledger's records: of every ad in every auction, its valid clicks and all that they were charged."""
    clicks: dict[tuple[str, str], int] = defaultdict(int)
    paid: dict[tuple[str, str], Micros] = defaultdict(int)
    page = charges_of(database)
    while True:
        for record in page.items:
            key = (record.auction_id, record.creative_id)
            clicks[key] += not record.invalid
            paid[key] += record.charged_micros
        if not page.cursor:
            break
        page = charges_of(database, cursor=page.cursor)
    keys = {(own.claims.auction_id, own.claims.ad_id): own for own in placed}
    assert clicks.keys() <= keys.keys()
    return individual_rationality(
        Charge(*key, bid=own.bid, clicks=clicks[key], paid=paid[key], value=own.value) for key, own in keys.items()
    )


def test_the_ledger_charges_no_advertiser_more_than_its_bid_or_its_value(database: Database) -> None:
    advertise(CampaignStore(database))
    placed = shaded(seed=1)
    asyncio.run(follow(database, placed, seed=2))
    once = charged(database, placed)
    assert once.holds
    assert once.charges == once.valued == ADVERTISERS * AUCTIONS
    assert 20 < once.clicks < once.charges
    # The same links followed again are the same clicks.
    asyncio.run(follow(database, placed, seed=2))
    assert charged(database, placed) == once


def test_a_ledger_that_charges_a_micro_above_the_bid_is_found_out(database: Database) -> None:
    advertise(CampaignStore(database))
    placed = shaded(seed=3)
    asyncio.run(follow(database, placed, seed=4))
    victim = next(
        record
        for record in charges_of(database).items
        if not record.invalid and record.charged_micros == record.price_micros
    )
    spoilt = update(charges).where(charges.c.id == victim.id, charges.c.invalid == "")
    database.transact(lambda c: c.execute(spoilt.values(charged_micros=victim.charged_micros + 1)), idempotent=False)
    result = charged(database, placed)
    assert not result.holds
    assert (result.violations, result.overcharged) == (1, 1)
    assert result.examples == ((victim.auction_id, victim.creative_id),)
