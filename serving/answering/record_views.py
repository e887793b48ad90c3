"""What a caller sees of an auction's record: amounts of its own campaigns alone; an administrator sees everything.

A field whose name ends in `_micros` is an amount. It is left out of every entry that does not belong to the caller, so
that a new field is private by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from serving.answering.auction_records import AuctionRecord

AMOUNT = "_micros"
Owns = Callable[[str], bool]
"""Whether the caller owns the campaign of this id."""
_ENTRIES = ("candidates", "eligible_creatives", "exclusions", "apart", "shown", "payments")


def without_amounts(record: AuctionRecord, owns: Owns) -> dict[str, Any]:
    """Return the record as plain values, with amounts in the entries of the caller's campaigns alone."""
    plain: dict[str, Any] = _private(msgspec.to_builtins(record), owns)
    return plain


def own_entries(record: AuctionRecord, owns: Owns) -> dict[str, Any] | None:
    """Return the record as an advertiser sees it: its own campaigns and no other's; None if none took part.

    Propensities are its own ads' alone: those of others would show how their bids compare.
    """
    plain = without_amounts(record, owns)
    for name in _ENTRIES:
        if plain.get(name):
            plain[name] = [entry for entry in plain[name] if owns(entry["campaign_id"])]
    if not any(plain.get(name) for name in _ENTRIES):
        return None
    own = {entry["ad_id"] for name in _ENTRIES for entry in plain.get(name) or ()}
    for marker in plain["markers"]:
        marker["probabilities"] = {ad_id: p for ad_id, p in marker["probabilities"].items() if ad_id in own}
        marker["chosen"] = marker["chosen"] if marker["chosen"] in own else ""
    for entry in plain["apart"]:
        entry["winner"] = entry["winner"] if entry["winner"] in own else ""
    plain["left_out"] = [ad_id for ad_id in plain["left_out"] if ad_id in own]
    return plain


def _private(value: Any, owns: Owns) -> Any:
    if isinstance(value, list):
        return [_private(one, owns) for one in value]
    if not isinstance(value, dict):
        return value
    owned = owns(value.get("campaign_id", ""))
    return {name: _private(one, owns) for name, one in value.items() if owned or not name.endswith(AMOUNT)}
