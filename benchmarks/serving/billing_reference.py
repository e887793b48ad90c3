"""What the ledger of the billing drill must hold, computed without a line of the ledger's code.

It shares neither code nor method: no event is charged after another here. Budgets are nested (each day's within the
total), so a campaign pays min(total budget, sum over days of min(daily budget, prices of that day)).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Terms:
    """A campaign as the reference sees it."""

    advertiser: str
    zone: str
    daily: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Expected:
    """Micros by campaign and by advertiser; micros by (campaign, day) where they do not depend on the order of events;
    how many different events there are, how many of them are valid clicks, and the number of lines by file."""

    campaigns: dict[str, int]
    advertisers: dict[str, int]
    days: dict[tuple[str, str], int]
    records: int
    clicks: int
    lines: dict[str, int]


def expected(terms: dict[str, Terms], files: Iterable[Path]) -> Expected:
    """Reads all files of events and works out what must have been charged in the end."""
    events, lines = {}, {}
    for path in files:
        own = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        lines[path.stem] = len(own)
        events.update({event["id"]: event for event in own})
    asked: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    clicks = 0
    for event in events.values():
        if not event["invalid"]:
            clicks += 1
            moment = datetime.fromisoformat(event["occurred_at"].replace("Z", "+00:00"))
            day = moment.astimezone(ZoneInfo(terms[event["campaign_id"]].zone)).date().isoformat()
            asked[event["campaign_id"]][day] += event["price_micros"]
    campaigns, days = {}, {}
    advertisers: dict[str, int] = defaultdict(int)
    for name, own_terms in terms.items():
        capped = {
            d: prices if own_terms.daily is None else min(prices, own_terms.daily) for d, prices in asked[name].items()
        }
        whole = sum(capped.values())
        campaigns[name] = whole if own_terms.total is None else min(whole, own_terms.total)
        advertisers[own_terms.advertiser] += campaigns[name]
        if campaigns[name] == whole:
            days.update({(name, day): micros for day, micros in capped.items()})
    return Expected(campaigns, dict(advertisers), days, len(events), clicks, lines)
