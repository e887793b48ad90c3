"""Sample campaigns and charge events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from serving.campaigns.types import Campaign, CampaignState, Creative
from serving.ledger.entries import ChargeEvent

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def creative(number: str, **options: Any) -> Creative:
    return Creative(id=number, **{"title": f"Brand {number}", "landing_url": "https://brand.example/"} | options)


def campaign(number: int = 1, **options: Any) -> Campaign:
    """Campaign c1 of advertiser a1, active, in euros, with one creative c1-1 and no budget."""
    usual = {
        "id": f"c{number}",
        "advertiser_id": "a1",
        "name": f"Campaign {number}",
        "category": "shoes",
        "state": CampaignState.ACTIVE,
        "creatives": (creative(f"c{number}-1"),),
        "bid_micros": 250_000,
        "currency": "EUR",
        "starts_at": NOW - timedelta(days=30),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Campaign(**usual | options)


def click(number: int, **options: Any) -> ChargeEvent:
    """Click k<number> on campaign c1 for 0.25 EUR."""
    usual = {
        "id": f"k{number}",
        "auction_id": f"auction-{number}",
        "campaign_id": "c1",
        "creative_id": "c1-1",
        "placement": "chat",
        "model_version": "m1",
        "price_micros": 250_000,
        "currency": "EUR",
        "occurred_at": NOW,
    }
    return ChargeEvent(**usual | options)
