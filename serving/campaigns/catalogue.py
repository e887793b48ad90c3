"""Campaigns from a catalogue file, so that a router can show ads before any campaign has been created by hand.

The file has one ad per line, as JSON: where it leads and what it bids. One currency per catalogue, since bids in one
prompt must be comparable. Every bad row is reported with file, line and field; no row is dropped. Each ad becomes one
approved campaign of its advertiser. An ad that has a campaign already is left alone: from then on the database, not the
file, holds its bid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from mechanism.errors import InputError
from mechanism.files import replace_file
from mechanism.sanitize import clean_ad
from mechanism.types import Ad, AdId, Micros
from serving.bid_scale import BidScale
from serving.campaigns.input import CampaignInput, CreativeInput
from serving.campaigns.macros import landing_fault
from serving.campaigns.storage import CampaignStore, NotFound
from serving.campaigns.types import Campaign, CampaignState, Pacing, ReviewState
from serving.campaigns.validation import CURRENCY, HIGHEST_BID, checked

log = structlog.get_logger(__name__)

DEMO_PATH = "/demo/"
"""An ad's landing page may be the router's own page `/demo/<ad id>`: invented advertisers have no website."""
PREFIX = "catalogue-"


class CatalogueRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file. `bid_micros` is the bid for one click, in micros of `currency` (ISO 4217)."""

    id: str
    title: str
    text: str
    advertiser: str
    landing_url: str
    bid_micros: int
    currency: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """An ad that may take part in auctions, with its bid in micros of `currency`."""

    ad: Ad
    bid: Micros
    currency: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All listings, in the order of the file, and their common currency."""

    listings: tuple[Listing, ...]
    currency: str

    def __iter__(self) -> Iterator[Listing]:
        return iter(self.listings)

    def __len__(self) -> int:
        return len(self.listings)


def read_catalogue(path: Path) -> Catalogue:
    """Read and check a catalogue file.

    Raises:
        InputError: naming file, line and field, if the file cannot be read, is empty, or has a bad row.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(str(path), error.strerror or "unreadable", "name a readable catalogue file") from error
    listings: dict[AdId, Listing] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}:{number}"
            listing = _listing(_row(line, place), place)
            if listing.ad.id in listings:
                raise InputError(f"{place} id", listing.ad.id, "give every ad an id of its own")
            listings[listing.ad.id] = listing
    currencies = sorted({listing.currency for listing in listings.values()})
    if len(currencies) > 1:
        raise InputError(f"{path} currency", currencies, "use one currency in the whole catalogue")
    if not listings:
        raise InputError(str(path), "no ads", "write one JSON object per line with " + ", ".join(_FIELDS))
    return Catalogue(tuple(listings.values()), currencies[0])


def write_catalogue(rows: Iterable[CatalogueRow], path: Path) -> None:
    """Write a catalogue file in one step: completely or not at all."""
    replace_file(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def import_catalogue(catalogue: Catalogue, store: CampaignStore, now: datetime, scale: BidScale | None = None) -> int:
    """Create a campaign for each ad that has none, and return how many were created.

    Screening holds some for a person's review; the others are approved. An invalid ad, one whose id belongs to another
    campaign, or one that bids beyond the `scale`, is an InputError.
    """
    created = 0
    for listing in catalogue:
        campaign = campaign_of(listing, now, scale)
        try:
            known = store.get(campaign.id)
        except NotFound:
            known = store.create(campaign, now)
            created += 1
        # A start that was interrupted may have created the campaign without approving it.
        if known.version == 1 and known.creatives[0].review is ReviewState.PENDING:
            if findings := known.creatives[0].findings:
                log.warning("catalogue.held_for_review", ad_id=listing.ad.id, findings=findings)
                continue
            store.review(listing.ad.id, ReviewState.APPROVED, now, note="from the catalogue")
    return created


def campaign_of(listing: Listing, now: datetime, scale: BidScale | None = None) -> Campaign:
    """Return the campaign of a listing: no budget, no targeting, its bid for a click."""
    ad = listing.ad
    given = CampaignInput(
        id=PREFIX + ad.id.replace(":", "-"),
        advertiser_id=ad.advertiser,
        name=ad.title,
        category=ad.category,
        state=CampaignState.ACTIVE,
        creatives=[CreativeInput(id=ad.id, title=ad.title, text=ad.text, landing_url=ad.landing_url)],
        bid_micros=listing.bid,
        currency=listing.currency,
        pacing=Pacing.ASAP,
    )
    return checked(given, now, known_pages={DEMO_PATH + ad.id}, scale=scale)


_FIELDS = CatalogueRow.__struct_fields__


def _row(line: bytes, place: str) -> CatalogueRow:
    try:
        return msgspec.json.decode(line, type=CatalogueRow)
    except msgspec.DecodeError as error:
        shown = line.decode("utf-8", errors="replace")
        raise InputError(place, shown, f"{error}; the fields are {', '.join(_FIELDS)}") from error


def _listing(row: CatalogueRow, place: str) -> Listing:
    if not 0 <= row.bid_micros <= HIGHEST_BID:
        raise InputError(f"{place} bid_micros", row.bid_micros, f"give a whole number from 0 to {HIGHEST_BID}")
    if not CURRENCY.fullmatch(row.currency):
        raise InputError(f"{place} currency", row.currency, "give an ISO 4217 code such as USD")
    if row.landing_url != DEMO_PATH + row.id and (remedy := landing_fault(row.landing_url)):
        raise InputError(f"{place} landing_url", row.landing_url, remedy)
    # `clean_ad` accepts web addresses only, so the landing page, which may be the router's own, is added after it.
    ad = clean_ad(Ad(row.id, row.title, row.text, row.advertiser, row.category), place)
    return Listing(replace(ad, landing_url=row.landing_url), row.bid_micros, row.currency)
