"""Which campaigns and creatives may take part in an auction.

`rules` defines eligibility for one campaign, `index` computes the same result for all campaigns at once. Choosing the
creatives of the prompt among the eligible is left to `serving.auction.retrieval` and `serving.auction.offers`, storing
campaigns to `serving.campaigns`.
"""

from serving.auction.eligibility.evaluation import Eligible, Evaluation
from serving.auction.eligibility.index import EligibilityIndex
from serving.auction.eligibility.request import UNCOUNTED, PlacementRequest, ReachedCaps
from serving.auction.eligibility.rules import CreativeDecision, Reason

__all__ = [
    "PlacementRequest",
    "ReachedCaps",
    "UNCOUNTED",
    "Reason",
    "CreativeDecision",
    "EligibilityIndex",
    "Evaluation",
    "Eligible",
]
