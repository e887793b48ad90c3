"""Hours of the week in a campaign's own time zone: when it is open, and how much of a day is open.

Eligibility and pacing share this calendar, so that they agree on clock changes. Hours are wall-clock hours: one that a
clock change repeats is open twice, one that it skips is never open.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mechanism.errors import InputError
from serving.campaigns.types import Daypart

WEEK_HOURS = 168
QUARTER_S = 900
"""Every UTC offset in use is a multiple of a quarter of an hour, so no campaign opens or closes within one."""


@lru_cache(maxsize=1_024)
def zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name.

    Raises:
        InputError: if the time zone database does not have the name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError("time_zone", name, "give an IANA name such as Europe/Berlin") from error


def week_hour(local: datetime) -> int:
    """Return the hour of the week of a local time, 0 to 167; 0 is the first hour of Monday."""
    return local.weekday() * 24 + local.hour


@lru_cache(maxsize=4_096)
def open_week(dayparts: tuple[Daypart, ...]) -> tuple[bool, ...]:
    """Return 168 flags, one per hour of the week; without dayparts every hour is open."""
    if not dayparts:
        return (True,) * WEEK_HOURS
    hours = [False] * WEEK_HOURS
    for part in dayparts:
        for day in part.days:
            for hour in range(part.from_hour, part.to_hour):
                hours[day * 24 + hour] = True
    return tuple(hours)


def day_of(moment: datetime, time_zone: str) -> str:
    """Return the ISO date of an aware moment in a campaign's time zone; an unknown zone is an InputError."""
    return moment.astimezone(zone(time_zone)).date().isoformat()


@lru_cache(maxsize=16_384)
def open_intervals(zone_name: str, dayparts: tuple[Daypart, ...], day: date) -> tuple[tuple[int, int], ...]:
    """Return the open times of a local day (23, 24 or 25 hours) as (from, until) in Unix seconds, in order."""
    here, hours = zone(zone_name), open_week(dayparts)
    found: list[tuple[int, int]] = []
    end = _midnight(day + timedelta(days=1), here)
    for start in range(_midnight(day, here), end, QUARTER_S):
        if not hours[week_hour(datetime.fromtimestamp(start, UTC).astimezone(here))]:
            continue
        until = min(start + QUARTER_S, end)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], until)
        else:
            found.append((start, until))
    return tuple(found)


def overlap_s(intervals: tuple[tuple[int, int], ...], start: float, end: float) -> float:
    """Return how many seconds of `intervals` lie between `start` and `end`."""
    return sum(max(0.0, min(b, end) - max(a, start)) for a, b in intervals)


def _midnight(day: date, here: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=here).timestamp())
