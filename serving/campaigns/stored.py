"""One campaign as a row: its JSON, and beside it the columns that SQL filters by and the ledger computes with."""

from __future__ import annotations

from typing import Any

import msgspec

from mechanism.errors import InputError
from serving.campaigns.dayparts import zone
from serving.campaigns.types import Campaign
from serving.database.columns import checked_micros, checked_moment, checked_text

_DECODER = msgspec.json.Decoder(Campaign)


def decoded(body: str) -> Campaign:
    """Decode the column `campaigns.body`."""
    return _DECODER.decode(body)


def row_of(campaign: Campaign) -> dict[str, Any]:
    """Return all columns but `changed_in`, checked.

    Raises:
        InputError: if a database cannot store a value.
    """
    checked_text("id", campaign.id)
    checked_text("advertiser_id", campaign.advertiser_id)
    checked_text("name", campaign.name)
    checked_text("category", campaign.category, empty=True)
    checked_text("currency", campaign.currency)
    checked_micros("bid_micros", campaign.bid_micros)
    if campaign.daily_budget_micros is not None:
        checked_micros("daily_budget_micros", campaign.daily_budget_micros)
    if campaign.total_budget_micros is not None:
        checked_micros("total_budget_micros", campaign.total_budget_micros)
    checked_moment("starts_at", campaign.starts_at)
    if campaign.ends_at is not None:
        checked_moment("ends_at", campaign.ends_at)
    checked_moment("created_at", campaign.created_at)
    checked_moment("updated_at", campaign.updated_at)
    zone(campaign.time_zone)
    try:
        body = msgspec.json.encode(campaign).decode()
    except UnicodeEncodeError as error:
        raise InputError("campaign", campaign.id, "a text holds half of a surrogate pair: send valid UTF-8") from error
    return {
        "id": campaign.id,
        "advertiser_id": campaign.advertiser_id,
        "name_folded": campaign.name.casefold(),
        "category": campaign.category,
        "state": campaign.state.value,
        "currency": campaign.currency,
        "time_zone": campaign.time_zone,
        "priority": campaign.priority.value,
        "daily_budget_micros": campaign.daily_budget_micros,
        "total_budget_micros": campaign.total_budget_micros,
        "ends_at": campaign.ends_at,
        "created_at": campaign.created_at,
        "version": campaign.version,
        "body": body,
    }
