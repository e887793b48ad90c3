"""Check a campaign that arrives over HTTP or from a catalogue: every field, and all faults reported at once.

What depends on stored campaigns (versions, ids that are taken, reviews) is checked by `serving.campaigns.storage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

import msgspec

from mechanism.errors import InputError
from mechanism.sanitize import clean_text, clean_title, web_address_fault
from mechanism.types import Micros
from serving.bid_scale import BidScale
from serving.campaigns.dayparts import zone
from serving.campaigns.input import CampaignInput, CreativeInput
from serving.campaigns.macros import landing_fault
from serving.campaigns.screening import Finding, Names, Rule, screen
from serving.campaigns.types import (
    BidAdjustment,
    Campaign,
    Creative,
    Daypart,
    FrequencyCap,
    Pricing,
    Priority,
    Targeting,
    check_bid,
    highest_adjusted_bid,
    normal,
)
from serving.settings import BlockRule

HIGHEST_BID: Micros = 10**12
HIGHEST_BUDGET: Micros = 10**17
MOST_CREATIVES = 100
MOST_ENTRIES = 1_000
DIMENSIONS = ("country", "language", "category", "placement")
CURRENCY = re.compile(r"[A-Z]{3}")
T = TypeVar("T", bound=msgspec.Struct)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")


class BadCampaign(InputError):
    """A campaign with wrong fields; `faults` holds one InputError per field."""

    def __init__(self, faults: list[InputError]) -> None:
        self.faults = tuple(faults)
        first = faults[0]
        super().__init__(first.place, first.value, first.remedy)


class _Faults:
    """Collects the faults of a campaign."""

    def __init__(self) -> None:
        self.found: list[InputError] = []

    def add(self, place: str, value: object, remedy: str) -> None:
        """Add a fault, unless its remedy for this place is known: one text may break several rules of one kind."""
        if not any((fault.place, fault.remedy) == (place, remedy) for fault in self.found):
            self.found.append(InputError(place, value, remedy))

    def require(self, condition: bool, place: str, value: object, remedy: str) -> None:
        if not condition:
            self.add(place, value, remedy)

    def clean(self, cleaning: Callable[[str, str], str], text: str, place: str) -> str:
        """Return the cleaned text; if it cannot be cleaned, add a fault and return it unchanged."""
        try:
            return cleaning(text, place)
        except InputError as error:
            self.found.append(error)
            return text


def checked(
    given: CampaignInput,
    now: datetime,
    known_pages: Collection[str] = (),
    names: Names | None = None,
    scale: BidScale | None = None,
    blocks: BlockRule = "same-category",
) -> Campaign:
    """Return the campaign; missing ids are generated, and a missing start becomes `now`.

    A landing page must be a web address or one of `known_pages`. Creatives are screened, and their titles compared with
    the `names` of others: what must be refused is a fault, what a person must see is in the creative's `findings`.
    With a `scale`, a bid beyond it is a fault; `blocks` is the market's rule for `block_advertisers`.

    Raises:
        BadCampaign: with all wrong fields.
    """
    faults = _Faults()
    campaign_id = given.id or f"cmp-{uuid4().hex[:16]}"
    faults.require(bool(_ID.fullmatch(campaign_id)), "id", given.id, "use 1 to 64 letters, digits or '._-'")
    name = faults.clean(_name, given.name, "name")
    advertiser = faults.clean(clean_title, given.advertiser_id, "advertiser_id")
    category = faults.clean(clean_title, given.category, "category") if given.category else ""
    faults.require(len(given.separation) <= 80, "separation", given.separation, "use at most 80 characters")
    creatives = _creatives(given.creatives, faults, known_pages, _Imitated(names, given.advertiser_id))
    _check_money(given, faults)
    _check_times(given, faults)
    _check_reach(given, faults)
    _check_blocks(given, faults, blocks)
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
            priority=given.priority,
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
        except InputError as error:
            faults.found.append(error)
        else:
            if scale is None or (fault := _beyond(scale, campaign)) is None:
                return campaign
            faults.add(*fault)
    raise BadCampaign(faults.found)


def _beyond(scale: BidScale, campaign: Campaign) -> tuple[str, object, str] | None:
    """Return place, value and remedy if the campaign's bid, with its adjustments, lies beyond the market's scale."""
    highest = scale.highest_in(campaign.currency)
    if highest is None:
        remedy = f"this market has no scale for it: start the routers with --highest-bid {campaign.currency}=UNITS"
        return "currency", campaign.currency, remedy
    if campaign.bid_micros > highest:
        remedy = f"bid {highest} at most: a higher bid buys nothing here (the market sets it with --highest-bid)"
        return "bid_micros", campaign.bid_micros, remedy
    if (adjusted := highest_adjusted_bid(campaign)) > highest:
        return "adjustments", adjusted, f"lower the bid or its adjustments: together {highest} at most"
    return None


def _stored(kind: type[T], given: T) -> T:
    return kind(**msgspec.structs.asdict(given))


def _name(text: str, place: str) -> str:
    # Cleaned less than a title: its advertiser and administrators see a campaign's name, a model never does.
    name = " ".join(text.split())
    if not (0 < len(name) <= 200 and name.isprintable()):
        raise InputError(place, text, "give 1 to 200 printable characters")
    return name


@dataclass(frozen=True, slots=True)
class _Imitated:
    names: Names | None
    advertiser: str

    def __call__(self, title: str) -> bool:
        return self.names is not None and self.names.imitated(title, self.advertiser)


def _screened(one: CreativeInput, place: str, faults: _Faults, imitated: _Imitated) -> tuple[str, ...]:
    """Add a fault for each finding that is refused; return the notes of the others."""
    found = screen(one.title, one.text)
    if imitated(one.title):
        found = (*found, Finding("title", Rule.IMPOSTOR))
    for finding in found:
        if finding.rule.is_refused:
            faults.add(f"{place}.{finding.place}", getattr(one, finding.place), finding.remedy)
    return tuple(finding.note for finding in found if not finding.rule.is_refused)


def _creatives(
    given: list[CreativeInput], faults: _Faults, known_pages: Collection[str], imitated: _Imitated
) -> tuple[Creative, ...]:
    few = len(given) <= MOST_CREATIVES
    faults.require(few, "creatives", f"{len(given)} creatives", f"give {MOST_CREATIVES} at most")
    creatives: list[Creative] = []
    ids: set[str] = set()
    for number, one in enumerate(given[:MOST_CREATIVES]):
        place = f"creatives[{number}]"
        creative_id = one.id or f"ad-{uuid4().hex[:16]}"
        faults.require(bool(_ID.fullmatch(creative_id)), f"{place}.id", one.id, "use 1 to 64 letters, digits or '._-'")
        faults.require(creative_id not in ids, f"{place}.id", one.id, "give each creative an id of its own")
        ids.add(creative_id)
        if one.landing_url not in known_pages and (remedy := landing_fault(one.landing_url)):
            faults.add(f"{place}.landing_url", one.landing_url, remedy)
        for name, url in (("image_url", one.image_url), ("video_url", one.video_url)):
            if url and (remedy := web_address_fault(url)):
                faults.add(f"{place}.{name}", url, remedy)
        creatives.append(
            Creative(
                id=creative_id,
                title=faults.clean(clean_title, one.title, f"{place}.title"),
                text=faults.clean(clean_text, one.text, f"{place}.text") if one.text else "",
                landing_url=one.landing_url,
                image_url=one.image_url,
                video_url=one.video_url,
                findings=_screened(one, place, faults, imitated),
            )
        )
    return tuple(creatives)


def _check_money(given: CampaignInput, faults: _Faults) -> None:
    whole = f"give a whole number of micros from 0 to {HIGHEST_BID}"
    faults.require(0 <= given.bid_micros <= HIGHEST_BID, "bid_micros", given.bid_micros, whole)
    faults.require(bool(CURRENCY.fullmatch(given.currency)), "currency", given.currency, "give an ISO 4217 code (USD)")
    if given.priority is Priority.HOUSE and given.pricing is not Pricing.CLICK:
        faults.add("pricing", given.pricing.value, "leave it out: a house ad costs nothing")
    daily, total = given.daily_budget_micros, given.total_budget_micros
    for name, budget in (("daily_budget_micros", daily), ("total_budget_micros", total)):
        if budget is not None:
            remedy = f"give a whole number of micros from 1 to {HIGHEST_BUDGET}, or leave it out for no limit"
            faults.require(1 <= budget <= HIGHEST_BUDGET, name, budget, remedy)
            free = given.priority is Priority.HOUSE
            faults.require(not free, name, budget, "leave it out: a house ad costs nothing")
    if daily is not None and total is not None and daily > total:
        faults.add("daily_budget_micros", daily, f"give no more than the total budget, {total}")
    for number, one in enumerate(given.adjustments):
        place = f"adjustments[{number}]"
        faults.require(one.dimension in DIMENSIONS, f"{place}.dimension", one.dimension, f"use {', '.join(DIMENSIONS)}")
        faults.require(0 <= one.thousandths <= 100_000, f"{place}.thousandths", one.thousandths, "give 0 to 100000")
        _check_values([one.value], f"{place}.value", faults)
    faults.require(len(given.adjustments) <= 100, "adjustments", len(given.adjustments), "give 100 at most")


def _check_times(given: CampaignInput, faults: _Faults) -> None:
    try:
        zone(given.time_zone)
    except InputError as error:
        faults.found.append(error)
    comparable = True
    for name, moment in (("starts_at", given.starts_at), ("ends_at", given.ends_at)):
        if moment is not None and moment.tzinfo is None:
            faults.add(name, moment.isoformat(), "add the time zone, for example a Z at the end")
            comparable = False
        elif moment is not None and not 2000 <= moment.year <= 2200:
            faults.add(name, moment.isoformat(), "give a year from 2000 to 2200")
    if comparable and given.starts_at and given.ends_at and given.ends_at <= given.starts_at:
        faults.add("ends_at", given.ends_at.isoformat(), "give a moment after starts_at")
    faults.require(len(given.dayparts) <= 168, "dayparts", len(given.dayparts), "give 168 at most")
    for number, part in enumerate(given.dayparts[:168]):
        place = f"dayparts[{number}]"
        days = bool(part.days) and all(0 <= day <= 6 for day in part.days)
        faults.require(days, f"{place}.days", list(part.days), "give days from 0 (Monday) to 6")
        hours = 0 <= part.from_hour < part.to_hour <= 24
        faults.require(hours, f"{place}.from_hour", part.from_hour, "give hours with 0 <= from_hour < to_hour <= 24")
    for name, caps in (("campaign_caps", given.campaign_caps), ("creative_caps", given.creative_caps)):
        faults.require(len(caps) <= 10, name, len(caps), "give 10 at most")
        for number, cap in enumerate(caps[:10]):
            fits = 1 <= cap.impressions <= 1_000 and 1 <= cap.hours <= 24 * 90
            remedy = "give 1 to 1000 impressions within 1 to 2160 hours"
            faults.require(fits, f"{name}[{number}]", f"{cap.impressions} in {cap.hours} h", remedy)


def _check_reach(given: CampaignInput, faults: _Faults) -> None:
    target = given.targeting
    for number, country in enumerate(target.countries[:MOST_ENTRIES]):
        fits = bool(_COUNTRY.fullmatch(country))
        faults.require(fits, f"targeting.countries[{number}]", country, "give an ISO 3166 code such as DE")
    for number, language in enumerate(target.languages[:MOST_ENTRIES]):
        fits = bool(_LANGUAGE.fullmatch(language))
        faults.require(fits, f"targeting.languages[{number}]", language, "give a tag such as en or en-GB")
    _check_values(target.countries, "targeting.countries", faults)
    _check_values(target.languages, "targeting.languages", faults)
    _check_values(target.categories, "targeting.categories", faults)
    _check_values(target.keywords, "targeting.keywords", faults)
    _check_values(target.placements, "targeting.placements", faults)
    _check_values(given.block_categories, "block_categories", faults)
    _check_values(given.block_placements, "block_placements", faults)


def _check_blocks(given: CampaignInput, faults: _Faults, rule: BlockRule) -> None:
    """Check what keeps other advertisers out of this campaign's prompts."""
    if not given.block_advertisers:
        return
    if rule == "never":
        remedy = "leave it out: in this market no campaign keeps others away (the administrator's --block-advertisers)"
        faults.add("block_advertisers", given.block_advertisers, remedy)
    elif not given.category.strip():
        faults.add("category", given.category, "name the campaign's category: block_advertisers holds within it alone")
    _check_values(given.block_advertisers, "block_advertisers", faults)
    for number, name in enumerate(given.block_advertisers[:MOST_ENTRIES]):
        if normal(name) == normal(given.advertiser_id):
            faults.add(f"block_advertisers[{number}]", name, "leave it out: it is the campaign's own advertiser")


def _check_values(values: Sequence[str], place: str, faults: _Faults) -> None:
    faults.require(len(values) <= MOST_ENTRIES, place, f"{len(values)} entries", f"give {MOST_ENTRIES} at most")
    for number, value in enumerate(values[:MOST_ENTRIES]):
        fits = len(value.strip()) > 0 and len(value) <= 80 and value.isprintable()
        faults.require(fits, f"{place}[{number}]", value, "give 1 to 80 printable characters")
