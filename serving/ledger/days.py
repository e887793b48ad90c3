"""Which day of a campaign a moment belongs to: the one place for charges, spend and reports."""

from __future__ import annotations

from datetime import datetime

from serving.campaigns.dayparts import zone


def day_of(moment: datetime, time_zone: str) -> str:
    """ISO date of an aware moment in a campaign's time zone. Raises InputError for an unknown zone."""
    return moment.astimezone(zone(time_zone)).date().isoformat()
