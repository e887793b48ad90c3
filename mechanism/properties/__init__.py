"""Tests of the auction's theoretical properties on measurements (arXiv 2512.10551).

* `monotonicity`: clicks never fall in the own bid (Theorem 4.2);
* `continuity`: the allocation has no steps in the bid (Theorem 4.3);
* `rationality`: no advertiser pays more than its bid, or its value, a click (individual rationality);
* `equilibrium`: utility maximisers reach an approximate equilibrium (Corollary 4.4);
* `incentives`: bidding v / tau is optimal for a value maximiser (Theorem 4.5).

Each is a pure function from measurements to a frozen result with `holds`, a headline interval (mean, lo, hi) and
`to_dict()` for reports. The callers sweep bids and generate answers.
"""

from __future__ import annotations

from mechanism.properties.continuity import Continuity, continuity, curve_from_hits, curve_from_samples
from mechanism.properties.equilibrium import Exploitability, Play, exploitability, no_regret_play
from mechanism.properties.incentives import ValueMaximiserIC, value_maximiser_ic
from mechanism.properties.monotonicity import Monotonicity, monotonicity
from mechanism.properties.rationality import Charge, IndividualRationality, individual_rationality

__all__ = [
    "Charge",
    "Continuity",
    "Exploitability",
    "IndividualRationality",
    "Monotonicity",
    "Play",
    "ValueMaximiserIC",
    "continuity",
    "curve_from_hits",
    "curve_from_samples",
    "exploitability",
    "individual_rationality",
    "monotonicity",
    "no_regret_play",
    "value_maximiser_ic",
]
