"""Declared value, penalty, reward and objective of answers (Eq. 2, 5, 8), and the example of the package."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mechanism
from mechanism.errors import ConfigError, InputError
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, objective, reward, s_resp, value
from mechanism.types import Ad, Answer

ADS = tuple(Ad(f"a{i}", f"Title {i}", "", "x") for i in range(6))
BIDS = {ad.id: 100_000 * (i + 1) for i, ad in enumerate(ADS)}  # 10, 20, ... points
CTR = {ad.id: 0.1 * (i + 1) for i, ad in enumerate(ADS)}


def answer(*numbers: int, faults: int = 0) -> Answer:
    return parse(" ".join(render_marker(ADS[i]) for i in numbers) + " @x@[y]" * faults, ADS)


def test_value_is_bid_times_click_probability_of_the_shown_ads_in_points() -> None:
    assert value(answer(), BIDS, CTR) == 0
    assert value(answer(0), BIDS, CTR) == pytest.approx(10 * 0.1)
    assert value(answer(0, 4), BIDS, CTR) == pytest.approx(10 * 0.1 + 50 * 0.5)


def test_an_ad_shown_twice_has_the_same_value_and_twice_the_penalty() -> None:
    assert value(answer(3, 3), BIDS, CTR) == value(answer(3), BIDS, CTR)
    assert s_resp(answer(3, 3), Penalty()) == 2 * s_resp(answer(3), Penalty())


def test_penalty_counts_ads_flooding_and_faults() -> None:
    assert s_resp(answer(), Penalty()) == 0
    assert s_resp(answer(0, 1), Penalty()) == 20
    assert s_resp(answer(0, 1, 2, 3, 4), Penalty()) == 50 + 3 * 20
    assert s_resp(answer(0, faults=2), Penalty()) == 10 + 2 * 50
    assert s_resp(answer(0, 1, faults=1), Penalty(per_ad=1, flood_after=0, per_extra_ad=3, per_fault=7)) == 2 + 6 + 7


def test_reward_is_value_less_lambda_times_penalty() -> None:
    y = answer(1, 4, faults=1)
    assert reward(y, BIDS, CTR, Penalty(), 0.0) == value(y, BIDS, CTR)
    assert reward(y, BIDS, CTR, Penalty(), 0.5) == pytest.approx(value(y, BIDS, CTR) - 0.5 * 70)


@given(st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(0, 10**9))
def test_value_never_falls_in_a_bid(shown: set[int], raised: int, more: int) -> None:
    y = answer(*sorted(shown))
    higher = BIDS | {ADS[raised].id: BIDS[ADS[raised].id] + more}
    assert value(y, higher, CTR) >= value(y, BIDS, CTR)


def test_probabilities_of_ads_that_are_not_shown_are_ignored() -> None:
    assert value(answer(0), {"a0": 10_000}, {"a0": 1.0, "a1": math.nan}) == 1.0


@pytest.mark.parametrize("rate", [None, -0.1, 1.1, math.nan, math.inf])
def test_a_shown_ad_needs_a_probability(rate: float | None) -> None:
    with pytest.raises(InputError, match="click probability of shown ad 'a0'"):
        value(answer(0), BIDS, {} if rate is None else {"a0": rate})


def test_a_shown_ad_needs_a_bid() -> None:
    with pytest.raises(InputError, match="bid of shown ad 'a0'"):
        value(answer(0), {}, CTR)
    with pytest.raises(InputError, match="bid of shown ad 'a0'"):
        value(answer(0), {"a0": -1}, CTR)


@pytest.mark.parametrize("field", ["per_ad", "flood_after", "per_extra_ad", "per_fault"])
@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_penalty_weights_are_checked(field: str, weight: float) -> None:
    with pytest.raises(ConfigError, match=rf"penalty\.{field}"):
        Penalty(**{field: weight})  # type: ignore[arg-type]


@pytest.mark.parametrize("lam", [-1.0, math.nan])
def test_lambda_is_checked(lam: float) -> None:
    with pytest.raises(InputError, match="lambda"):
        reward(answer(0), BIDS, CTR, Penalty(), lam)


@given(st.floats(0, 1), st.floats(0, 100))
def test_lost_quality_costs_its_weight(quality: float, weight: float) -> None:
    y = answer(1, 4)
    plain = reward(y, BIDS, CTR, Penalty())
    assert reward(y, BIDS, CTR, Penalty(), quality=quality) == plain
    weighted = reward(y, BIDS, CTR, Penalty(), quality=quality, quality_weight=weight)
    assert weighted == pytest.approx(plain - weight * (1 - quality))


@pytest.mark.parametrize("terms", [{"quality": 1.1}, {"quality": math.nan}, {"quality_weight": -1.0}])
def test_the_quality_term_is_checked(terms: dict[str, float]) -> None:
    with pytest.raises(InputError, match="quality"):
        reward(answer(0), BIDS, CTR, Penalty(), **terms)


def test_objective_subtracts_the_divergence_from_the_base_policy() -> None:
    assert objective([10.0, 20.0], [1.0, 3.0], beta=0.1) == pytest.approx(15 - 0.1 * 2)
    assert objective([10.0], [5.0], beta=0) == 10
    with pytest.raises(InputError, match="log_ratios"):
        objective([], [], 0.1)
    with pytest.raises(InputError, match="log_ratios"):
        objective([1.0], [], 0.1)


def test_the_example_of_the_package_documentation_runs() -> None:
    result = doctest.testmod(mechanism)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_exported_name_exists() -> None:
    assert [name for name in mechanism.__all__ if not hasattr(mechanism, name)] == []
