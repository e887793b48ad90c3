"""The benchmark of the built-in world: no fixed rule exceeds the best attainable answer, and figures are complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.simulator.world import BOUNDED, OPTIMUM, RULES, main


def test_the_figures_are_of_the_same_contexts_and_the_optimum_is_the_most(tmp_path: Path) -> None:
    main(contexts=4, candidates=10, per_ad=5.0, seed=0, out=tmp_path / "world.json")
    figures = json.loads((tmp_path / "world.json").read_text())
    methods = figures["methods"]
    assert list(methods) == [OPTIMUM, *BOUNDED, *(rule.name for rule in RULES)]
    best = methods[OPTIMUM]
    for name in BOUNDED:
        assert methods[name]["reward"]["mean"] <= best["reward"]["mean"] + 1e-9
    assert methods["best of one ad at most"]["ads"] <= 1
    for rule in RULES:
        own = methods[rule.name]
        assert own["ads"] == rule.ads
        assert own["reward"]["mean"] <= best["reward"]["mean"]
        assert own["share_of_optimum"] == pytest.approx(own["reward"]["mean"] / best["reward"]["mean"])
        # Reward and revenue differ by the penalty of the ads.
        assert own["revenue"] - own["reward"]["mean"] == pytest.approx(5.0 * rule.ads)
