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
        for known in (self._titles, self._advertisers):
            for name, owner in known.items():
                if owner != own and len(name) >= LEAST_NAME and name in wanted and name not in skeleton(own):
                    return True
        others = [name for name, owner in self._titles.items() if owner != own and len(name) >= LEAST_NAME]
        return process.extractOne(wanted, others, scorer=fuzz.ratio, score_cutoff=ALIKE) is not None
