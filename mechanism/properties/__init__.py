"""What the theory promises of the auction, measured: arXiv 2512.10551, Theorems 4.2, 4.3, 4.5 and Corollary 4.4.

Each module holds one property as a pure function from measurements to a frozen result with a verdict `holds`, a
headline interval and `to_dict()` for reports. Sweeping bids and generating answers is left to the callers.
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
