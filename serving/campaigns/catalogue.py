"""From a catalogue file to campaigns: what makes a router show ads before anybody has booked any.

Each ad becomes one approved campaign of its advertiser. An ad whose campaign is there already is left as it is: the
database, not the file, says what it bids by now.
"""

from __future__ import annotations

from datetime import datetime

from serving.campaigns.catalogue_file import DEMO_PATH, Catalogue, Listing
from serving.campaigns.checks import CampaignInput, CreativeInput, checked, web_address_fault
from serving.campaigns.storage import CampaignStore, NotFound
from serving.campaigns.types import Campaign, CampaignState, Pacing, ReviewState

PREFIX = "catalogue-"


def import_catalogue(catalogue: Catalogue, store: CampaignStore, now: datetime) -> int:
    """Stores a campaign for every ad that has none yet, and says how many. Raises InputError for an ad that is wrong or
    whose id is another campaign's."""
    made = 0
    for listing in catalogue:
        campaign = campaign_of(listing, now)
        try:
            known = store.get(campaign.id)
        except NotFound:
            known = store.create(campaign, now)
            made += 1
        # Also for one that a start before this one could only create.
        if known.version == 1 and known.creatives[0].review is ReviewState.PENDING:
            store.review(listing.ad.id, ReviewState.APPROVED, now, note="from the catalogue")
    return made


def campaign_of(listing: Listing, now: datetime) -> Campaign:
    """The campaign that stands for a listing: no budget, no targeting, its bid for a click."""
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
    return checked(given, now, landing=_landing)


def _landing(url: str, creative_id: str) -> str | None:
    """An invented advertiser's page is the router's own."""
    return None if url == DEMO_PATH + creative_id else web_address_fault(url)
