"""Tests of the auction's theoretical properties on measurements (arXiv 2512.10551).

* `monotonicity`: clicks rise with the own bid and never fall (Theorem 4.2);
* `continuity`: the allocation rises without steps in the bid (Theorem 4.3);
* `rationality`: no advertiser pays more than its bid, or its value, a click (individual rationality);
* `incentives`: bidding v / tau is optimal for a value maximiser (Theorem 4.5);
* `equilibrium`: utility maximisers reach an approximate equilibrium (Corollary 4.4), and what each payment rule of
  `games` earns there.

Each is a pure function from measurements to a frozen result with `holds`, a headline interval (mean, lo, hi) and
`to_dict()` for reports. A property that nothing could have violated (no rise, no payment, no click) does not hold. The
callers sweep bids and generate answers.
"""

from __future__ import annotations

from mechanism.properties.continuity import Continuity, continuity
from mechanism.properties.equilibrium import (
    Equilibrium,
    EquilibriumComparison,
    Exploitability,
    Play,
    compare_equilibria,
    equilibrium,
    exploitability,
    no_regret_play,
)
from mechanism.properties.games import (
    Allocation,
    Game,
    Payment,
    as_table,
    bid_profiles,
    first_price,
    tabulate,
    threshold_price,
)
from mechanism.properties.incentives import (
    ValueMaximiserIC,
    ValueMaximiserTargets,
    value_maximiser_ic,
    value_maximiser_targets,
)
from mechanism.properties.monotonicity import Monotonicity, monotonicity
from mechanism.properties.rationality import Charge, IndividualRationality, individual_rationality

__all__ = [
    "Allocation",
    "Charge",
    "Continuity",
    "Equilibrium",
    "EquilibriumComparison",
    "Exploitability",
    "Game",
    "IndividualRationality",
    "Monotonicity",
    "Payment",
    "Play",
    "ValueMaximiserIC",
    "ValueMaximiserTargets",
    "as_table",
    "bid_profiles",
    "compare_equilibria",
    "continuity",
    "equilibrium",
    "exploitability",
    "first_price",
    "individual_rationality",
    "monotonicity",
    "no_regret_play",
    "tabulate",
    "threshold_price",
    "value_maximiser_ic",
    "value_maximiser_targets",
]
