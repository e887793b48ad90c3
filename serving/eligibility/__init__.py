"""Who may take part in an auction: rules, reason codes and the index that answers them for all campaigns at once.

`rules` is the definition, `index` the fast answer. Which eligible creatives enter the prompt is left to
`serving.retrieval` and `serving.separation`, storage of campaigns to `serving.store`.
"""

from serving.eligibility.evaluation import Eligible, Evaluation
from serving.eligibility.index import EligibilityIndex
from serving.eligibility.reasons import Reason
from serving.eligibility.request import UNCOUNTED, Capped, PlacementRequest
from serving.eligibility.rules import Verdict

__all__ = ["UNCOUNTED", "Capped", "EligibilityIndex", "Eligible", "Evaluation", "PlacementRequest", "Reason", "Verdict"]
