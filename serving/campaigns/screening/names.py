"""Impostors: titles that could be taken for another advertiser's."""

from __future__ import annotations

from collections.abc import Iterable

from rapidfuzz import fuzz, process

from serving.campaigns.screening.disguises import skeleton
from serving.campaigns.types import Campaign, CampaignState, normal

LEAST_NAME = 5
"""Shortest name, in letters, that a title may not contain."""
ALIKE = 88.0
"""Similarity of two titles, 0 to 100, from which a reader may confuse them."""


class Names:
    """The titles and names of all advertisers that have campaigns."""

    def __init__(self, campaigns: Iterable[Campaign]) -> None:
        self._titles: dict[str, str] = {}
        self._advertisers: dict[str, str] = {}
        # Of the advertiser that asked last: the rows of a file are one advertiser's, mostly.
        self._others: dict[str, tuple[list[str], list[str]]] = {}
        for campaign in campaigns:
            if campaign.state is CampaignState.ENDED:
                continue
            owner = normal(campaign.advertiser_id)
            self._advertisers.setdefault(skeleton(owner), owner)
            for creative in campaign.creatives:
                self._titles.setdefault(skeleton(creative.title), owner)

    def imitated(self, title: str, advertiser: str) -> bool:
        """Whether a title of this advertiser resembles another's title, or holds another's name."""
        own, wanted = normal(advertiser), skeleton(title)
        if own not in self._others:
            self._others = {own: (_foreign(self._titles, own), _foreign(self._advertisers, own))}
        titles, advertisers = self._others[own]
        held = [name for name in titles if name in wanted] + [name for name in advertisers if name in wanted]
        if held:
            mine = skeleton(own)
            if any(name not in mine for name in held):
                return True
        return process.extractOne(wanted, titles, scorer=fuzz.ratio, score_cutoff=ALIKE) is not None


def _foreign(names: dict[str, str], own: str) -> list[str]:
    """Return the names of other advertisers that are long enough to be recognised."""
    return [name for name, owner in names.items() if owner != own and len(name) >= LEAST_NAME]
