"""The marketplace of a router drops campaigns past their end, and takes them back with what they have spent."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from serving.auction.marketplace import Marketplace
from serving.auction.relevance import RelevanceFloor
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.settings import ServeSettings
from tests.serving.database.samples import campaign, click


def test_a_campaign_is_dropped_after_its_end_and_comes_back_with_its_spend(database: Database, tmp_path: Path) -> None:
    store, ledger = CampaignStore(database), Ledger(database)
    market = Marketplace(database, None, 0, b"k" * 32, ServeSettings(state_dir=tmp_path), RelevanceFloor(0.0, None))
    now = datetime.now(UTC)
    stored = store.create(campaign(total_budget_micros=1_000_000, starts_at=now - timedelta(days=9)), now)

    async def run() -> None:
        await market.load()
        ended = store.update(msgspec.structs.replace(stored, ends_at=now - timedelta(hours=2)), now)
        ledger.book([click(1, occurred_at=now - timedelta(hours=3))])
        await market.refresh()
        known = market.index.spend("c1")
        assert known is not None
        assert known.total_micros == 250_000
        await market.pace()
        assert market.index.get("c1") is None
        ledger.book([click(2, occurred_at=now - timedelta(hours=3))])
        await market.refresh()
        assert market.index.spend("c1") is None
        store.update(msgspec.structs.replace(ended, ends_at=now + timedelta(days=1)), now)
        await market.refresh()
        known = market.index.spend("c1")
        assert known is not None
        assert known.total_micros == 500_000

    asyncio.run(run())
