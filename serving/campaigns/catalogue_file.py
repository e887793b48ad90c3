"""The catalogue of the router: which ads there are, where they lead and what they bid, from a JSON Lines file.

One currency per catalogue, since bids in one prompt must be comparable. Every bad row is reported with file, line
and field; no row is dropped. Campaigns with budgets will take this file's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mechanism.errors import InputError
from mechanism.files import replace_file
from mechanism.sanitize import clean_ad
from mechanism.types import Ad, AdId, Candidate, Micros

DEMO_PATH = "/demo/"
"""An ad's landing page may be the router's own `/demo/<ad id>`: invented advertisers have no site to lead to."""
HIGHEST_BID: Micros = 10**12
_CURRENCY = re.compile(r"[A-Z]{3}")


class CatalogueRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file. `bid_micros` is the bid for one click in millionths of `currency` (ISO 4217)."""

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

    def candidate(self) -> Candidate:
        """The ad as an auction sees it."""
        return Candidate(self.ad, self.bid)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All listings by ad id, in the order of the file."""

    listings: dict[AdId, Listing]
    currency: str

    def __iter__(self) -> Iterator[Listing]:
        return iter(self.listings.values())

    def __len__(self) -> int:
        return len(self.listings)

    def get(self, ad_id: AdId) -> Listing | None:
        """The listing of an ad, None where the catalogue has none."""
        return self.listings.get(ad_id)


def read_catalogue(path: Path) -> Catalogue:
    """Reads and checks a catalogue file. Raises InputError naming file, line and field."""
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
        raise InputError(str(path), "no ads", "write one JSON object a line with " + ", ".join(_FIELDS))
    return Catalogue(listings, currencies[0])


def write_catalogue(rows: Iterable[CatalogueRow], path: Path) -> None:
    """Writes a catalogue file whole or not at all."""
    replace_file(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


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
    if not _CURRENCY.fullmatch(row.currency):
        raise InputError(f"{place} currency", row.currency, "give an ISO 4217 code such as USD")
    _check_destination(row, f"{place} landing_url")
    # The cleaning knows web addresses only; the destination has been checked, more strictly, just above.
    ad = clean_ad(Ad(row.id, row.title, row.text, row.advertiser, row.category), place)
    return Listing(replace(ad, landing_url=row.landing_url), row.bid_micros, row.currency)


def _check_destination(row: CatalogueRow, place: str) -> None:
    """Only http(s) addresses with a host, or the router's own page for this ad; nothing that could split a header."""
    url, remedy = row.landing_url, "give an absolute http:// or https:// address"
    if url == DEMO_PATH + row.id:
        return
    if re.search(r"[\s\\\x00-\x1f\x7f]", url) or not url.isascii():
        raise InputError(place, url, remedy + ", percent-encoded, without blanks or control characters")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise InputError(place, url, remedy)
