"""Payment rules at equilibrium as a table."""

from __future__ import annotations

from io import StringIO

import numpy as np
from rich.console import Console

from mechanism.properties import compare_equilibria, first_price, no_regret_play, threshold_price
from mechanism.statistics import Floats
from trainers.evaluation.rules_table import rules_table


def shares(bids_PN: Floats) -> Floats:
    """Clicks in proportion to bids."""
    return np.asarray(bids_PN / np.maximum(bids_PN.sum(1, keepdims=True), 1e-9))


def test_every_rule_has_a_row_with_its_figures() -> None:
    bids = [0.0, 20.0, 40.0, 60.0, 80.0]
    values = [np.array([60.0, 80.0]), np.array([40.0, 70.0])]
    plays = {
        name: [no_regret_play(shares, own, bids, 200, pay=pay) for own in values]
        for name, pay in (("first_price", first_price), ("threshold", threshold_price))
    }
    compared = compare_equilibria(plays, 0)
    out = StringIO()
    Console(file=out, width=160).print(rules_table(compared.to_dict()))
    text = out.getvalue()
    for name, rule in compared.rules.items():
        [line] = [line for line in text.splitlines() if line.strip().startswith(name.replace("_", " "))]
        assert f"{rule.revenue.mean:.2f}" in line
        assert f"{rule.shading.mean:.2f}" in line
        assert ("no equilibrium" in line) is not rule.reached
