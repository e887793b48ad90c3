"""What a campaign that arrives over HTTP must be: every field checked, every fault reported at once.

`CampaignInput` is the body; `checked` turns it into a `Campaign` or raises `BadCampaign` with all bad fields. Versions,
taken ids and reviews are the store's. A catalogue's import passes the same checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from mechanism.errors import InputError
from mechanism.sanitize import clean_text, clean_title
from mechanism.types import Micros
from serving.campaigns.dayparts import zone
from serving.campaigns.types import (
    BidAdjustment,
    Campaign,
    CampaignState,
    Creative,
    Daypart,
    FrequencyCap,
    Pacing,
    Pricing,
    Targeting,
    check_bid,
    normal,
)

HIGHEST_BID: Micros = 10**12
HIGHEST_BUDGET: Micros = 10**17
MOST_CREATIVES = 100
MOST_ENTRIES = 1_000
LONGEST_URL = 2_000
DIMENSIONS = ("country", "language", "category", "placement")
T = TypeVar("T", bound=msgspec.Struct)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
_UNSAFE = re.compile(r"[\s\\<>\"`{}|^\x00-\x1f\x7f]")


class CreativeInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A creative as its advertiser writes it. Without an `id` it gets one."""

    title: str
    landing_url: str
    id: str = ""
    text: str = ""
    image_url: str = ""
    video_url: str = ""


# As they are stored, but closed: what a newer router wrote may hold more, what an advertiser misspells must not vanish.
class DaypartInput(Daypart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = Daypart.__doc__


class FrequencyCapInput(FrequencyCap, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = FrequencyCap.__doc__


class TargetingInput(Targeting, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = Targeting.__doc__


class BidAdjustmentInput(BidAdjustment, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = BidAdjustment.__doc__


class CampaignInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign as its advertiser writes it; the fields are those of `Campaign`. An advertiser's own key says whose it
    is, an administrator names the `advertiser_id`."""

    name: str
    bid_micros: int
    currency: str
    id: str = ""
    advertiser_id: str = ""
    category: str = ""
    state: CampaignState = CampaignState.PAUSED
    creatives: list[CreativeInput] = []
    pricing: Pricing = Pricing.CLICK
    daily_budget_micros: int | None = None
    total_budget_micros: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    time_zone: str = "UTC"
    dayparts: list[DaypartInput] = []
    pacing: Pacing = Pacing.EVEN
    targeting: TargetingInput = TargetingInput()
    campaign_caps: list[FrequencyCapInput] = []
    creative_caps: list[FrequencyCapInput] = []
    separation: str = ""
    block_categories: list[str] = []
    block_placements: list[str] = []
    block_advertisers: list[str] = []
    adjustments: list[BidAdjustmentInput] = []


class BadCampaign(InputError):
    """A campaign with wrong fields: `faults` holds an InputError of each."""

    def __init__(self, faults: list[InputError]) -> None:
        self.faults = tuple(faults)
        first = faults[0]
        super().__init__(first.place, first.value, first.remedy)


class _Faults:
    """Collects what is wrong."""

    def __init__(self) -> None:
        self.found: list[InputError] = []

    def add(self, place: str, value: object, remedy: str) -> None:
        self.found.append(InputError(place, value, remedy))

    def unless(self, fits: bool, place: str, value: object, remedy: str) -> None:
        if not fits:
            self.add(place, value, remedy)

    def clean(self, make: Callable[[str, str], str], text: str, place: str) -> str:
        """The cleaned text; the text itself, with a fault, where it cannot be made clean."""
        try:
            return make(text, place)
        except InputError as error:
            self.found.append(error)
            return text


def checked(given: CampaignInput, now: datetime, landing: Callable[[str, str], str | None] | None = None) -> Campaign:
    """The campaign, with ids where none were given and a start at `now` where none is. Raises BadCampaign.

    `landing(url, creative_id)` replaces the rule for landing pages: None where the page is right, else the remedy.
    """
    faults = _Faults()
    campaign_id = given.id or f"cmp-{uuid4().hex[:16]}"
    faults.unless(bool(_ID.fullmatch(campaign_id)), "id", given.id, "use 1 to 64 letters, digits or '._-'")
    name = faults.clean(_name, given.name, "name")
    advertiser = faults.clean(clean_title, given.advertiser_id, "advertiser_id")
    category = faults.clean(clean_title, given.category, "category") if given.category else ""
    faults.unless(len(given.separation) <= 80, "separation", given.separation, "use at most 80 characters")
    creatives = _creatives(given.creatives, faults, landing or web_address_fault)
    _check_money(given, faults)
    _check_times(given, faults)
    _check_reach(given, faults)
    if not faults.found:
        campaign = Campaign(
            id=campaign_id,
            advertiser_id=advertiser,
            name=name,
            category=category,
            state=given.state,
            creatives=creatives,
            bid_micros=given.bid_micros,
            currency=given.currency,
            pricing=given.pricing,
            daily_budget_micros=given.daily_budget_micros,
            total_budget_micros=given.total_budget_micros,
            starts_at=given.starts_at or now,
            ends_at=given.ends_at,
            time_zone=given.time_zone,
            dayparts=tuple(_stored(Daypart, one) for one in given.dayparts),
            pacing=given.pacing,
            targeting=_stored(Targeting, given.targeting),
            campaign_caps=tuple(_stored(FrequencyCap, cap) for cap in given.campaign_caps),
            creative_caps=tuple(_stored(FrequencyCap, cap) for cap in given.creative_caps),
            separation=given.separation,
            block_categories=tuple(given.block_categories),
            block_placements=tuple(given.block_placements),
            block_advertisers=tuple(given.block_advertisers),
            adjustments=tuple(_stored(BidAdjustment, one) for one in given.adjustments),
            created_at=now,
            updated_at=now,
        )
        try:
            check_bid(campaign)
            return campaign
        except InputError as error:
            faults.found.append(error)
    raise BadCampaign(faults.found)


def web_address_fault(url: str, _: str = "") -> str | None:
    """What to do about an address that is not an absolute http(s) one with a host, or that could break out of a link or
    a header; None where it is right."""
    remedy = "give an absolute http:// or https:// address"
    if len(url) > LONGEST_URL:
        return f"shorten it to at most {LONGEST_URL} characters"
    if _UNSAFE.search(url) or not url.isascii():
        return remedy + ", percent-encoded, without blanks or control characters"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        usable = usable and parts.port != 0  # reading it raises for one that is no number
    except ValueError:
        usable = False
    return None if usable else remedy


def _stored(kind: type[T], given: T) -> T:
    return kind(**msgspec.structs.asdict(given))


def _name(text: str, place: str) -> str:
    """A campaign's name: shown to its advertiser and to administrators only, never to a model."""
    name = " ".join(text.split())
    if not (0 < len(name) <= 200 and name.isprintable()):
        raise InputError(place, text, "give 1 to 200 printable characters")
    return name


def _creatives(
    given: list[CreativeInput], faults: _Faults, landing: Callable[[str, str], str | None]
) -> tuple[Creative, ...]:
    few = len(given) <= MOST_CREATIVES
    faults.unless(few, "creatives", f"{len(given)} creatives", f"give {MOST_CREATIVES} at most")
    made: list[Creative] = []
    ids: set[str] = set()
    for number, one in enumerate(given[:MOST_CREATIVES]):
        place = f"creatives[{number}]"
        creative_id = one.id or f"ad-{uuid4().hex[:16]}"
        faults.unless(bool(_ID.fullmatch(creative_id)), f"{place}.id", one.id, "use 1 to 64 letters, digits or '._-'")
        faults.unless(creative_id not in ids, f"{place}.id", one.id, "give each creative an id of its own")
        ids.add(creative_id)
        if remedy := landing(one.landing_url, creative_id):
            faults.add(f"{place}.landing_url", one.landing_url, remedy)
        for name in ("image_url", "video_url"):
            url = getattr(one, name)
            if url and (remedy := web_address_fault(url)):
                faults.add(f"{place}.{name}", url, remedy)
        made.append(
            Creative(
                id=creative_id,
                title=faults.clean(clean_title, one.title, f"{place}.title"),
                text=faults.clean(clean_text, one.text, f"{place}.text") if one.text else "",
                landing_url=one.landing_url,
                image_url=one.image_url,
                video_url=one.video_url,
            )
        )
    return tuple(made)


def _check_money(given: CampaignInput, faults: _Faults) -> None:
    whole = f"give a whole number of micros from 0 to {HIGHEST_BID}"
    faults.unless(0 <= given.bid_micros <= HIGHEST_BID, "bid_micros", given.bid_micros, whole)
    faults.unless(bool(_CURRENCY.fullmatch(given.currency)), "currency", given.currency, "give an ISO 4217 code (USD)")
    for name in ("daily_budget_micros", "total_budget_micros"):
        budget = getattr(given, name)
        if budget is not None:
            remedy = f"give a whole number of micros from 1 to {HIGHEST_BUDGET}, or leave it out for no limit"
            faults.unless(1 <= budget <= HIGHEST_BUDGET, name, budget, remedy)
    daily, total = given.daily_budget_micros, given.total_budget_micros
    if daily is not None and total is not None and daily > total:
        faults.add("daily_budget_micros", daily, f"give no more than the total budget, {total}")
    for number, one in enumerate(given.adjustments):
        place = f"adjustments[{number}]"
        faults.unless(one.dimension in DIMENSIONS, f"{place}.dimension", one.dimension, f"use {', '.join(DIMENSIONS)}")
        faults.unless(0 <= one.thousandths <= 100_000, f"{place}.thousandths", one.thousandths, "give 0 to 100000")
        _check_values([one.value], f"{place}.value", faults)
    faults.unless(len(given.adjustments) <= 100, "adjustments", len(given.adjustments), "give 100 at most")


def _check_times(given: CampaignInput, faults: _Faults) -> None:
    try:
        zone(given.time_zone)
    except InputError as error:
        faults.found.append(error)
    usable = True
    for name in ("starts_at", "ends_at"):
        moment = getattr(given, name)
        if moment is not None and moment.tzinfo is None:
            faults.add(name, moment.isoformat(), "say which time zone, e.g. by a Z at the end")
            usable = False
        elif moment is not None and not 2000 <= moment.year <= 2200:
            faults.add(name, moment.isoformat(), "give a year from 2000 to 2200")
    if usable and given.starts_at and given.ends_at and given.ends_at <= given.starts_at:
        faults.add("ends_at", given.ends_at.isoformat(), "give a moment after starts_at")
    faults.unless(len(given.dayparts) <= 168, "dayparts", len(given.dayparts), "give 168 at most")
    for number, part in enumerate(given.dayparts[:168]):
        place = f"dayparts[{number}]"
        days = bool(part.days) and all(0 <= day <= 6 for day in part.days)
        faults.unless(days, f"{place}.days", list(part.days), "give days from 0 (Monday) to 6")
        hours = 0 <= part.from_hour < part.to_hour <= 24
        faults.unless(hours, f"{place}.from_hour", part.from_hour, "give hours with 0 <= from_hour < to_hour <= 24")
    for name in ("campaign_caps", "creative_caps"):
        caps = getattr(given, name)
        faults.unless(len(caps) <= 10, name, len(caps), "give 10 at most")
        for number, cap in enumerate(caps[:10]):
            fits = 1 <= cap.impressions <= 1_000 and 1 <= cap.hours <= 24 * 90
            remedy = "give 1 to 1000 impressions within 1 to 2160 hours"
            faults.unless(fits, f"{name}[{number}]", f"{cap.impressions} in {cap.hours} h", remedy)


def _check_reach(given: CampaignInput, faults: _Faults) -> None:
    target = given.targeting
    for number, country in enumerate(target.countries[:MOST_ENTRIES]):
        fits = bool(_COUNTRY.fullmatch(country))
        faults.unless(fits, f"targeting.countries[{number}]", country, "give an ISO 3166 code such as DE")
    for number, language in enumerate(target.languages[:MOST_ENTRIES]):
        fits = bool(_LANGUAGE.fullmatch(language))
        faults.unless(fits, f"targeting.languages[{number}]", language, "give a tag such as en or en-GB")
    for name in ("countries", "languages", "categories", "keywords", "placements"):
        _check_values(getattr(target, name), f"targeting.{name}", faults)
    _check_values(given.block_categories, "block_categories", faults)
    _check_values(given.block_placements, "block_placements", faults)
    _check_values(given.block_advertisers, "block_advertisers", faults)
    for number, name in enumerate(given.block_advertisers[:MOST_ENTRIES]):
        if normal(name) == normal(given.advertiser_id):
            faults.add(f"block_advertisers[{number}]", name, "leave it out: it is the campaign's own advertiser")


def _check_values(values: Iterable[str], place: str, faults: _Faults) -> None:
    listed = list(values)
    faults.unless(len(listed) <= MOST_ENTRIES, place, f"{len(listed)} entries", f"give {MOST_ENTRIES} at most")
    for number, value in enumerate(listed[:MOST_ENTRIES]):
        fits = len(value.strip()) > 0 and len(value) <= 80 and value.isprintable()
        faults.unless(fits, f"{place}[{number}]", value, "give 1 to 80 printable characters")
