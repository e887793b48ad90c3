"""Games between utility maximisers: no-regret play, payment rules, and what is reported where none converges."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.properties import (
    bid_profiles,
    compare_equilibria,
    equilibrium,
    exploitability,
    first_price,
    no_regret_play,
    tabulate,
    threshold_price,
)
from mechanism.statistics import Floats

COARSE = np.linspace(0, 100, 11)


def proportional(bids: Floats) -> Floats:
    """Allocate smoothly: at most one ad is shown, ad i with probability b_i / (sum_j b_j + 20)."""
    return np.asarray(bids / (bids.sum(axis=1, keepdims=True) + 20))


def winner_takes_all(bids: Floats) -> Floats:
    won = np.zeros_like(bids)
    won[np.arange(len(bids)), bids.argmax(axis=1)] = 1.0
    return won


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
    play = no_regret_play(lambda b: b / (b + 20), [90.0], COARSE, rounds=2000)
    utilities = (90 - COARSE) * COARSE / (COARSE + 20)
    assert int(np.argmax(play.strategies[0])) == int(utilities.argmax()) == 3
    assert play.utilities[0] == pytest.approx(utilities.max(), rel=0.01)
    assert play.shading == pytest.approx(30 / 90, rel=0.05)
    assert play.revenue == pytest.approx(30 * 30 / 50, rel=0.05)
    assert play.truthful_revenue == pytest.approx(90 * 90 / 110)


def test_play_that_stopped_early_is_exploitable() -> None:
    plays = [no_regret_play(proportional, [60.0, 90.0], COARSE, rounds=1)] * 3
    result = exploitability(plays, seed=0)
    assert not result.holds
    assert result.relative.lo > 0.05
    assert not equilibrium(plays, seed=0).reached


def test_a_game_in_which_play_goes_in_circles_does_not_hold() -> None:
    """Shapley's game (1964), a little askew so that the uniform start is no equilibrium."""
    first = np.eye(3)
    second = np.roll(np.eye(3), 1, axis=1)
    second[0, 1] = 1.05
    clicks = np.stack([first.ravel(), second.ravel()], axis=1)
    plays = [no_regret_play(lambda profiles: clicks, [1.0, 1.0], [0, 1, 2], 2000, lambda table, bids: 0 * table)]
    assert not exploitability(plays, seed=0).holds
    reached = [no_regret_play(proportional, [1.0, 1.0], [0, 1, 2], 2000)]
    assert not compare_equilibria({"ours": reached, "circles": plays}, seed=0).holds
    assert compare_equilibria({"ours": reached, "again": reached}, seed=0).holds


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


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_revenue_and_welfare_are_those_of_every_profile_weighed_by_its_probability(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, bids = rng.uniform(10, 100, 3), np.array([5.0, 30.0, 80.0])
    itctr = rng.uniform(0, 0.3, (27, 3))
    play = no_regret_play(lambda profiles: itctr, values, bids, rounds=20)
    mixes = np.array(play.strategies)
    revenue = welfare = 0.0
    for row, clicks in zip(bid_profiles(bids, 3), itctr, strict=True):
        weight = np.prod([mixes[i, list(bids).index(b)] for i, b in enumerate(row)])
        revenue += weight * float(row @ clicks)
        welfare += weight * float(values @ clicks)
    assert play.revenue == pytest.approx(revenue)
    assert play.welfare == pytest.approx(welfare)
    assert sum(play.utilities) == pytest.approx(welfare - revenue)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_under_threshold_prices_the_value_is_a_dominant_bid_of_any_rising_allocation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bids = np.array([5.0, 20.0, 40.0, 60.0, 100.0])
    values = rng.choice(bids, size=2)
    table = np.stack([rng.exponential(0.05, (5, 5)).cumsum(axis=axis) for axis in (0, 1)])
    rows = table.reshape(2, -1).T
    game = tabulate(lambda profiles: rows, values, bids, threshold_price)
    for i, value in enumerate(values):
        utility = np.moveaxis(game.utilities[i], i, -1)
        own = utility[..., list(bids).index(value)]
        assert (own[..., None] >= utility - 1e-9).all()
    paid_at_most_the_bid = first_price(game.clicks, bids) - game.payments
    assert (paid_at_most_the_bid >= -1e-9).all()
    assert (game.payments >= -1e-9).all()


def test_under_first_price_the_value_is_no_dominant_bid_and_bidders_shade() -> None:
    game = tabulate(proportional, [60.0, 90.0], COARSE, first_price)
    assert (game.utilities[0].max(axis=0) > game.utilities[0][6] + 1).all()
    values = np.random.default_rng(1).uniform(50, 100, (6, 2))
    plays = {
        name: [no_regret_play(proportional, own, COARSE, 500, pay) for own in values]
        for name, pay in (("first price", first_price), ("threshold price", threshold_price))
    }
    result = compare_equilibria(plays, seed=0)
    assert result.holds
    first, threshold = result.rules["first price"], result.rules["threshold price"]
    assert first.shading.hi < 0.6
    assert threshold.shading.lo > 0.8
    # Unshaded bids flatter first price more than twofold here.
    assert first.truthful_revenue.lo > 2 * first.revenue.hi
    assert result.revenue_gain["threshold price"].hi < 0
    assert first.welfare.mean < threshold.welfare.mean


def test_the_second_price_of_two_bidders_is_what_threshold_prices_charge_a_winner() -> None:
    bids = np.linspace(0, 100, 101)
    game = tabulate(winner_takes_all, [60.0, 90.0], bids, threshold_price)
    assert game.payments[1, 40, 90] == pytest.approx(40, abs=1)
    assert game.payments[0, 40, 90] == 0


def test_games_too_large_and_wrong_allocations_are_refused() -> None:
    with pytest.raises(InputError, match="coarser grid"):
        no_regret_play(proportional, np.ones(8), COARSE)
    with pytest.raises(InputError, match="allocate"):
        no_regret_play(lambda b: b[:, :1], [1.0, 2.0], COARSE)
    with pytest.raises(InputError, match="rising bids"):
        no_regret_play(proportional, [1.0, 2.0], [5, 5])
    with pytest.raises(InputError, match="rounds"):
        no_regret_play(proportional, [1.0, 2.0], COARSE, 0)
    with pytest.raises(InputError, match="plays"):
        exploitability([], seed=0)
    with pytest.raises(InputError, match="plays"):
        compare_equilibria({}, seed=0)


def test_the_comparison_becomes_strict_json() -> None:
    plays = [no_regret_play(proportional, [60.0, 90.0], COARSE, rounds=100)]
    record = json.loads(json.dumps(compare_equilibria({"a": plays, "b": plays}, seed=0).to_dict(), allow_nan=False))
    assert record["mean"] == record["rules"]["a"]["revenue"]["mean"]
    assert record["revenue_gain"] == {"b": {"mean": 0.0, "lo": 0.0, "hi": 0.0}}
    assert set(record["rules"]["b"]) >= {"reached", "revenue", "welfare", "shading", "exploitability"}
