"""Each property's test accepts a correct auction and detects a planted violation."""

from __future__ import annotations

import json
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.properties import (
    Charge,
    compare_equilibria,
    continuity,
    exploitability,
    individual_rationality,
    monotonicity,
    no_regret_play,
    value_maximiser_ic,
    value_maximiser_targets,
)
from mechanism.statistics import Floats


class SupportsToDict(Protocol):
    def to_dict(self) -> dict[str, object]: ...


SWEEP = [1, *range(10, 101, 10)]


def sweep(curve: Floats, seed: int, queries: int = 400) -> Floats:
    """Return expected clicks (levels, queries): the curve scaled by each query's own demand, with a little noise."""
    rng = np.random.default_rng(seed)
    demand = rng.beta(1, 4, size=queries)
    return np.clip(demand * np.asarray(curve)[:, None] + rng.normal(0, 0.005, (len(curve), queries)), 0, 1)


# monotonicity ------------------------------------------------------------------------------------------------


def test_a_rising_curve_is_monotone_and_its_rise_is_measured() -> None:
    result = monotonicity(sweep(np.linspace(0.2, 0.9, 11), seed=0), SWEEP, seed=0)
    assert result.holds
    assert result.holds_pointwise
    assert 0.05 < result.rise.lo < result.rise.hi < 0.25
    assert result.largest_fall < 0.01
    assert len(result.means) == 11
    assert len(result.steps) == 10


def test_a_fall_is_detected_at_its_two_levels() -> None:
    curve = np.linspace(0.2, 0.9, 11)
    curve[6] = curve[5] - 0.1
    result = monotonicity(sweep(curve, seed=1), SWEEP, seed=0)
    assert not result.holds
    assert result.lowest_at == (50.0, 60.0)
    assert result.lowest_step.hi < 0
    assert result.largest_fall > 0.01


def test_flat_noisy_curves_rarely_fall() -> None:
    failed = sum(
        not monotonicity(sweep(np.full(11, 0.5), seed=s, queries=100), SWEEP, seed=s, draws=1000).never_falls
        for s in range(60)
    )
    assert failed <= 6


def test_an_allocation_that_ignores_bids_does_not_hold() -> None:
    result = monotonicity(sweep(np.full(11, 0.5), seed=0), SWEEP, seed=0)
    assert result.never_falls
    assert not result.rises
    assert not result.holds
    assert not monotonicity(np.zeros((3, 7)), [1, 2, 3], seed=0).holds


def test_an_exactly_flat_curve_is_monotone_despite_rounding() -> None:
    result = monotonicity(np.full((3, 7), 0.1) + np.array([[0], [1e-17], [-1e-17]]), [1, 2, 3], seed=0)
    assert result.never_falls
    assert result.never_falls_pointwise


def test_levels_must_rise_and_match() -> None:
    with pytest.raises(InputError, match="bids"):
        monotonicity(np.ones((2, 3)), [2, 1], seed=0)
    with pytest.raises(InputError, match="bids"):
        monotonicity(np.ones((2, 3)), [1, 2, 3], seed=0)
    with pytest.raises(InputError, match="clicks"):
        monotonicity(np.ones((0, 0)), [], seed=0)


# individual rationality --------------------------------------------------------------------------------------

MONEY = st.integers(0, 10**12)


@given(st.lists(st.tuples(MONEY, st.integers(0, 5), MONEY), min_size=1, max_size=30))
def test_first_price_charges_of_shaded_bids_never_violate(rows: list[tuple[int, int, int]]) -> None:
    charges = [Charge(f"q{i}", "a", bid, n, bid * n, value=bid + more) for i, (bid, n, more) in enumerate(rows)]
    result = individual_rationality(charges)
    assert result.violations == 0
    assert result.valued == len(rows)
    assert result.clicks == sum(n for _, n, _ in rows)
    assert result.holds == (result.paid > 0)


@given(st.lists(st.tuples(MONEY, MONEY, st.integers(1, 5)), min_size=1, max_size=30))
def test_charging_the_value_in_place_of_the_shaded_bid_is_detected(rows: list[tuple[int, int, int]]) -> None:
    charges = [Charge(f"q{i}", "a", bid, n, (bid + more) * n, bid + more) for i, (bid, more, n) in enumerate(rows)]
    result = individual_rationality(charges)
    assert result.violations == sum(more > 0 for _, more, _ in rows)
    assert result.overcharged == sum(more * n for _, more, n in rows)


def test_charges_that_could_not_violate_prove_nothing() -> None:
    assert not individual_rationality([Charge("q", "a", bid=10, clicks=0, paid=0, value=20)]).holds
    assert not individual_rationality([Charge("q", "a", bid=10, clicks=1, paid=10)]).holds
    assert individual_rationality([Charge("q", "a", bid=10, clicks=1, paid=10, value=20)]).holds


@given(st.lists(st.tuples(MONEY, st.integers(0, 5)), min_size=1, max_size=30), st.data())
def test_one_micro_too_much_is_detected_and_its_charge_named(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    victim = data.draw(st.integers(0, len(rows) - 1))
    charges = [Charge(f"q{i}", "a", b, n, b * n + (i == victim)) for i, (b, n) in enumerate(rows)]
    result = individual_rationality(charges)
    assert not result.holds
    assert (result.violations, result.overcharged, result.largest) == (1, 1, 1)
    assert result.examples == ((f"q{victim}", "a"),)


def test_a_payment_above_the_value_is_no_violation_if_the_bid_was() -> None:
    result = individual_rationality([Charge("q", "a", bid=10, clicks=1, paid=10, value=4)])
    assert result.violations == 0
    assert result.valued == 0


def test_amounts_must_be_whole_and_not_negative() -> None:
    for bad in (-1, 0.5, True):
        with pytest.raises(InputError, match="paid"):
            Charge("q", "a", 1, 1, bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="charges"):
        individual_rationality([])


# value maximisers --------------------------------------------------------------------------------------------

GRID = np.arange(1.0, 101.0)


def pairs(seed: int, n: int = 200) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.uniform(20, 100, n), rng.uniform(1.0, 2.0, n)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_value_maximisers_have_no_regret_under_any_monotone_allocation(seed: int) -> None:
    values, taus = pairs(seed, 30)
    curves = np.cumsum(np.random.default_rng(seed).exponential(0.01, (30, 100)), axis=1)
    result = value_maximiser_ic(curves, GRID, values, taus, seed=0, draws=200)
    assert result.holds
    assert result.regret.hi == 0
    assert result.deviating == 0


def test_a_curve_that_falls_rewards_shading_the_bid() -> None:
    values, taus = pairs(0)
    curves = np.tile(0.5 - 0.3 * (GRID / 100), (200, 1))
    result = value_maximiser_ic(curves, GRID, values, taus, seed=0)
    assert not result.holds
    assert result.relative.lo > 0.2
    assert result.deviating == 1.0


def test_bids_above_v_over_tau_do_not_count_as_deviations() -> None:
    curves = np.where(GRID > 50, 0.9, 0.1)[None, :]
    assert value_maximiser_ic(curves, GRID, [50.0], [1.0], seed=0).regret.mean == 0.0


def test_a_holdout_removes_the_bias_of_choosing_the_best_of_noisy_estimates() -> None:
    rng = np.random.default_rng(4)
    values, taus = pairs(4, 1000)
    truth = np.tile(0.2 + 0.002 * GRID, (1000, 1))
    first, second = (truth + rng.normal(0, 0.03, truth.shape) for _ in range(2))
    biased = value_maximiser_ic(first.clip(0), GRID, values, taus, seed=0)
    unbiased = value_maximiser_ic(first.clip(0), GRID, values, taus, seed=0, holdout=second.clip(0))
    assert biased.relative.lo > 0.02
    assert unbiased.relative.hi < 0.01


def test_the_grid_must_contain_the_truthful_bid() -> None:
    with pytest.raises(InputError, match="extend the bid grid"):
        value_maximiser_ic(np.ones((1, 100)), GRID, [300.0], [1.0], seed=0)
    with pytest.raises(InputError, match="holdout"):
        value_maximiser_ic(np.ones((1, 100)), GRID, [30.0], [1.0], seed=0, holdout=np.ones((2, 100)))


def test_value_maximisers_without_clicks_prove_nothing_and_regret_only_clicks_at_a_lower_bid() -> None:
    none = value_maximiser_ic(np.zeros((2, 100)), GRID, [30.0, 40.0], [1.0, 1.0], seed=0)
    assert none.regret.hi == 0
    assert not none.holds
    late = np.where(GRID < 10, 0.5, 0.0)[None, :]
    result = value_maximiser_ic(late, GRID, [30.0], [1.0], seed=0)
    assert not result.holds
    assert result.to_dict()["hi"] is None


TARGETS = (0.8, 1.0, 1.25, 1.5, 2.0)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_under_a_rising_allocation_every_target_is_served_by_value_over_target(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(20, 80, 30)
    curves = np.cumsum(np.random.default_rng(seed).exponential(0.01, (30, 100)), axis=1)
    result = value_maximiser_targets(curves, GRID, values, TARGETS, seed=0)
    assert result.holds
    assert [tau for tau, _ in result.by_target] == list(TARGETS)


def test_a_curve_that_falls_at_low_bids_fails_for_the_targets_that_bid_there() -> None:
    values = np.random.default_rng(0).uniform(70, 80, 50)
    curves = np.tile(np.where(GRID < 30, 0.6, 0.2) + 0.002 * GRID, (50, 1))
    curves[:, GRID >= 55] = 0.8
    result = value_maximiser_targets(curves, GRID, values, TARGETS, seed=0)
    assert not result.holds
    held = {tau: found.holds for tau, found in result.by_target}
    assert held == {0.8: True, 1.0: True, 1.25: True, 1.5: False, 2.0: False}
    report = result.to_dict()
    assert report["holds"] is False
    assert report["hi"] == max(found.relative.hi for _, found in result.by_target)


def test_targets_must_rise_and_stay_on_the_grid() -> None:
    with pytest.raises(InputError, match="targets"):
        value_maximiser_targets(np.ones((1, 100)), GRID, [50.0], [], seed=0)
    with pytest.raises(InputError, match="targets"):
        value_maximiser_targets(np.ones((1, 100)), GRID, [50.0], [1.0, 1.0], seed=0)
    with pytest.raises(InputError, match="extend the bid grid"):
        value_maximiser_targets(np.ones((1, 100)), GRID, [90.0], TARGETS, seed=0)


# reports -----------------------------------------------------------------------------------------------------


def test_every_result_becomes_strict_json_with_a_headline_interval_and_holds() -> None:
    values, taus = pairs(1, 10)
    curves = np.tile(GRID / 200, (10, 1))
    auction = np.array([[0.2, 0.4], [0.5, 0.1], [0.1, 0.6], [0.3, 0.4]])
    plays = [no_regret_play(lambda profiles: auction, [60.0, 90.0], [10, 50])]
    rising = np.linspace(0.1, 0.5, 6)[:, None] + np.random.default_rng(0).normal(0, 0.01, (4, 1, 6, 4))
    results: list[SupportsToDict] = [
        monotonicity(sweep(np.linspace(0.2, 0.9, 11), seed=0), SWEEP, seed=0),
        continuity(rising, [1, 2, 3, 4, 5, 6], seed=0),
        individual_rationality([Charge("q", "a", 5, 1, 5, 6)]),
        value_maximiser_ic(curves, GRID, values, taus, seed=0),
        value_maximiser_targets(curves, GRID, values * 0.7, TARGETS, seed=0),
        exploitability(plays, seed=0),
        compare_equilibria({"first price": plays}, seed=0),
    ]
    for result in results:
        report = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert report["lo"] <= report["mean"] <= report["hi"]
        assert report["holds"] is True
