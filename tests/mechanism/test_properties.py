"""Each property's test accepts a correct auction and detects a planted violation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.properties import (
    Charge,
    Continuity,
    Exploitability,
    IndividualRationality,
    Monotonicity,
    ValueMaximiserIC,
    continuity,
    curve_from_hits,
    curve_from_samples,
    exploitability,
    individual_rationality,
    monotonicity,
    no_regret_play,
    value_maximiser_ic,
)
from mechanism.statistics import Floats

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


def test_flat_noisy_curves_rarely_fail() -> None:
    failed = sum(
        not monotonicity(sweep(np.full(11, 0.5), seed=s, queries=100), SWEEP, seed=s, draws=1000).holds
        for s in range(60)
    )
    assert failed <= 6


def test_an_exactly_flat_curve_is_monotone_despite_rounding() -> None:
    result = monotonicity(np.full((3, 7), 0.1) + np.array([[0], [1e-17], [-1e-17]]), [1, 2, 3], seed=0)
    assert result.holds
    assert result.holds_pointwise


def test_levels_must_rise_and_match() -> None:
    with pytest.raises(InputError, match="bids"):
        monotonicity(np.ones((2, 3)), [2, 1], seed=0)
    with pytest.raises(InputError, match="bids"):
        monotonicity(np.ones((2, 3)), [1, 2, 3], seed=0)
    with pytest.raises(InputError, match="clicks"):
        monotonicity(np.ones((0, 0)), [], seed=0)


# continuity --------------------------------------------------------------------------------------------------

BIDS = np.arange(1, 101)


def logistic(bids: ArrayLike) -> Floats:
    return np.asarray(0.1 + 0.8 / (1 + np.exp(-(np.asarray(bids) - 50) / 12)))


def test_a_smooth_curve_estimated_from_200_answers_is_continuous() -> None:
    results = []
    for seed in range(30):
        hits = np.random.default_rng(seed).binomial(200, logistic(BIDS))
        results.append(continuity(*curve_from_hits(hits, 200), BIDS.tolist(), seed=seed, draws=1000).holds)
    assert sum(results) >= 26  # at a level of 95%


def test_a_step_estimated_from_200_answers_is_detected_at_its_two_bids() -> None:
    truth = np.where(BIDS <= 40, 0.2, 0.6)
    hits = np.random.default_rng(1).binomial(200, truth)
    result = continuity(*curve_from_hits(hits, 200), BIDS.tolist(), seed=0)
    assert not result.holds
    assert result.at == (40.0, 41.0)
    assert result.p_value < 0.01
    assert result.jump.lo > result.critical


def test_per_answer_propensities_are_tested_too() -> None:
    rng = np.random.default_rng(2)
    smooth = np.clip(logistic(BIDS)[:, None] + rng.normal(0, 0.05, (100, 20)), 0, 1)
    assert continuity(*curve_from_samples(smooth), BIDS.tolist(), seed=0).holds
    broken = smooth + np.where(BIDS > 70, 0.2, 0.0)[:, None]
    assert continuity(*curve_from_samples(broken), BIDS.tolist(), seed=0).at == (70.0, 71.0)
    assert not continuity(*curve_from_samples(broken), BIDS.tolist(), seed=0).holds


def test_for_exact_curves_the_tolerance_decides() -> None:
    exact, none = logistic(BIDS), np.zeros(100)
    assert continuity(exact, none, BIDS.tolist(), seed=0).holds
    stepped = exact + np.where(BIDS > 30, 0.1, 0.0)
    assert not continuity(stepped, none, BIDS.tolist(), seed=0).holds
    assert continuity(stepped, none, BIDS.tolist(), seed=0, tolerance=0.2).holds


def test_impossible_counts_and_grids_are_refused() -> None:
    with pytest.raises(InputError, match="hits"):
        curve_from_hits([3, 201], 200)
    with pytest.raises(InputError, match="samples"):
        curve_from_samples([[0.5], [0.6]])
    with pytest.raises(InputError, match="bids"):
        continuity([0.1, 0.2, 0.3], [0, 0, 0], [1, 1, 2], seed=0)
    with pytest.raises(InputError, match="errors"):
        continuity([0.1, 0.2, 0.3], [0, -1, 0], [1, 2, 3], seed=0)


# individual rationality --------------------------------------------------------------------------------------

MONEY = st.integers(0, 10**12)


@given(st.lists(st.tuples(MONEY, st.integers(0, 5), MONEY), min_size=1, max_size=30))
def test_first_price_charges_never_violate(rows: list[tuple[int, int, int]]) -> None:
    charges = [Charge(f"q{i}", "a", bid, n, bid * n, value=bid + more) for i, (bid, n, more) in enumerate(rows)]
    result = individual_rationality(charges)
    assert result.holds
    assert result.violations == 0
    assert result.valued == len(rows)


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
    assert result.holds
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


def test_value_maximisers_without_clicks_have_no_regret_unless_a_lower_bid_gets_some() -> None:
    assert value_maximiser_ic(np.zeros((2, 100)), GRID, [30.0, 40.0], [1.0, 1.0], seed=0).holds
    late = np.where(GRID < 10, 0.5, 0.0)[None, :]
    result = value_maximiser_ic(late, GRID, [30.0], [1.0], seed=0)
    assert not result.holds
    assert result.to_dict()["hi"] is None


# utility maximisers ------------------------------------------------------------------------------------------

COARSE = np.linspace(0, 100, 11)


def proportional(bids: Floats) -> Floats:
    """Allocate smoothly: at most one ad is shown, ad i with probability b_i / (sum_j b_j + 20)."""
    return np.asarray(bids / (bids.sum(axis=1, keepdims=True) + 20))


def test_no_regret_play_under_a_continuous_allocation_is_hardly_exploitable() -> None:
    rng = np.random.default_rng(0)
    plays = [no_regret_play(proportional, rng.uniform(30, 100, 3), COARSE, rounds=500) for _ in range(8)]
    result = exploitability(plays, seed=0)
    assert result.holds
    assert result.relative.hi < 0.02
    assert result.regret.hi < 0.02
    for play in plays:
        assert all(abs(sum(row) - 1) < 1e-9 for row in play.strategies)


def test_a_lone_bidder_finds_its_best_bid() -> None:
    play = no_regret_play(lambda b: b / (b + 20), [80.0], COARSE, rounds=2000)
    utilities = (80 - COARSE) * COARSE / (COARSE + 20)
    assert int(np.argmax(play.strategies[0])) == int(utilities.argmax())
    assert play.utilities[0] == pytest.approx(utilities.max(), rel=0.01)


def test_play_that_stopped_early_is_exploitable() -> None:
    plays = [no_regret_play(proportional, [60.0, 90.0], COARSE, rounds=1)] * 3
    result = exploitability(plays, seed=0)
    assert not result.holds
    assert result.relative.lo > 0.05


def test_gains_are_those_of_an_explicit_best_response() -> None:
    values = np.array([60.0, 90.0])
    play = no_regret_play(proportional, values, COARSE, rounds=3)
    first, second = (np.array(row) for row in play.strategies)
    payoff = np.array(
        [
            sum(
                q * (60 - own) * proportional(np.array([[own, other]]))[0, 0]
                for q, other in zip(second, COARSE, strict=True)
            )
            for own in COARSE
        ]
    )
    assert play.gains[0] == pytest.approx(payoff.max() - float(first @ payoff))


def test_games_too_large_and_wrong_allocations_are_refused() -> None:
    with pytest.raises(InputError, match="coarser grid"):
        no_regret_play(proportional, np.ones(8), COARSE)
    with pytest.raises(InputError, match="allocate"):
        no_regret_play(lambda b: b[:, :1], [1.0, 2.0], COARSE)
    with pytest.raises(InputError, match="plays"):
        exploitability([], seed=0)


# reports -----------------------------------------------------------------------------------------------------


def test_every_result_becomes_strict_json_with_a_headline_interval_and_holds() -> None:
    values, taus = pairs(1, 10)
    results: list[Monotonicity | Continuity | IndividualRationality | ValueMaximiserIC | Exploitability] = [
        monotonicity(sweep(np.linspace(0.2, 0.9, 11), seed=0), SWEEP, seed=0),
        continuity(*curve_from_hits([5, 6, 7, 8], 10), [1, 2, 3, 4], seed=0),
        individual_rationality([Charge("q", "a", 5, 1, 5)]),
        value_maximiser_ic(np.tile(GRID / 200, (10, 1)), GRID, values, taus, seed=0),
        exploitability([no_regret_play(proportional, [60.0, 90.0], COARSE, rounds=100)], seed=0),
    ]
    for result in results:
        report = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert report["lo"] <= report["mean"] <= report["hi"]
        assert report["holds"] is True
