"""Who may take part in an auction: rules, reason codes and the index that answers them for all campaigns at once.

`rules` is the definition, `index` the fast answer. Which eligible creatives enter the prompt is left to
`serving.auction.retrieval` and `serving.auction.separation`, storage of campaigns to `serving.database`.
"""

from serving.auction.eligibility.evaluation import Eligible, Evaluation
from serving.auction.eligibility.index import EligibilityIndex
from serving.auction.eligibility.reasons import Reason
from serving.auction.eligibility.request import UNCOUNTED, Capped, PlacementRequest
from serving.auction.eligibility.rules import Verdict

__all__ = ["UNCOUNTED", "Capped", "EligibilityIndex", "Eligible", "Evaluation", "PlacementRequest", "Reason", "Verdict"]
