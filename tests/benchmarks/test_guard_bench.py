"""The guard's benchmark: its traffic has the figures it claims, and its rollouts follow the shipped steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks.mechanism import guard as bench
from benchmarks.mechanism.canaries import Version, simulate
from mechanism.canary.latency import quantile
from operators.auctionservice.guard import limits_of
from operators.resources.auctionservice import Guards


def test_simulated_traffic_is_mostly_unpaid_and_late_clicks_are_lost() -> None:
    per_second = np.full(30, 20.0)
    prompt, late = (simulate(Version(), per_second, 4, delay, np.random.default_rng(0)) for delay in (0.0, 60.0))
    assert prompt.answers.mean() == pytest.approx(1_200, rel=0.02)
    assert prompt.failed.sum() / prompt.answers.sum() == pytest.approx(0.004, rel=0.2)
    assert prompt.clicks.sum() / prompt.answers.sum() == pytest.approx(0.7 * 0.08, rel=0.05)
    assert late.clicks.sum() / prompt.clicks.sum() == pytest.approx(1 - np.exp(-2), rel=0.05)
    assert float(quantile(prompt.seconds.sum(axis=(0, 1)), 0.5)) == pytest.approx(1.5, rel=0.03)
    assert (prompt.seconds.sum(axis=-1) == prompt.answers).all()


def test_the_new_versions_share_grows_by_the_shipped_steps() -> None:
    assert bench.shares(20).tolist() == [0.05] * 5 + [0.25] * 5 + [0.5] * 10


def test_identical_versions_are_promoted_after_the_steps_and_a_broken_one_is_rolled_back_at_once() -> None:
    limits = limits_of(Guards())
    rng = np.random.default_rng(1)
    same = bench.roll_out(bench.Scenario(bench.IDENTICAL, bench.STABLE, 500.0, 30.0), 4, limits, rng)
    assert (same.rolled_back == -1).all()
    assert (same.promoted >= 15).all()
    broken = bench.roll_out(bench.Scenario("broken", Version(failed=0.2), 500.0, 30.0), 4, limits, rng)
    assert (broken.rolled_back <= 2).all()
    assert bench.figures_of(bench.Scenario("broken", Version(failed=0.2), 500.0, 30.0), broken)["wrong"] == 0


def test_a_missed_target_is_reported_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "20% less revenue" that loses nothing, nothing can be found."""
    blind = bench.Scenario(bench.REGRESSION, bench.STABLE, 500.0, 0.0)
    same = bench.Scenario(bench.IDENTICAL, bench.STABLE, 500.0, 0.0)
    others = [bench.Scenario(name, version, 500.0, 0.0) for name, version in bench.WORSE.items()]
    monkeypatch.setattr(bench, "scenarios", lambda: [same, blind, *others])
    out = tmp_path / "guard.json"
    with pytest.raises(typer.Exit):
        bench.main(2, 0, out)
    figures = json.loads(out.read_text())
    assert figures["false_rollbacks"]["mean"] == 0
    assert figures["missed_regressions"]["mean"] == 0.5
    assert not figures["passed"]
