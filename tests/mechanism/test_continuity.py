"""Continuity accepts allocations that rise smoothly and detects every other kind, wherever its steps are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.properties import Continuity, continuity
from mechanism.statistics import Floats

BIDS = np.array([1, *range(5, 101, 5)], dtype=float)
QUERIES, ADS, ANSWERS = 50, 2, 4


def measured(curves: Floats, noise: float = 0.1, seed: int = 0) -> Continuity:
    """Test curves (queries, ads, bids) as they look when estimated from ANSWERS answers."""
    rng = np.random.default_rng([seed, 1])
    samples = curves[..., None] + rng.normal(0, noise, (*curves.shape, ANSWERS))
    return continuity(samples, BIDS.tolist(), seed=seed, draws=500)


def demand(seed: int = 0) -> tuple[Floats, Floats]:
    """Return the clicks at a high bid, and the bid at which each ad overtakes its rival: (queries, ads, 1) each."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.6, (QUERIES, ADS, 1)), rng.uniform(20, 80, (QUERIES, ADS, 1))


def smooth(seed: int = 0) -> Floats:
    height, centre = demand(seed)
    return np.asarray(height / (1 + np.exp(-(BIDS - centre) / 15)))


@given(st.integers(0, 500))
@settings(max_examples=4, deadline=None)
def test_smooth_rising_curves_are_continuous(seed: int) -> None:
    result = measured(smooth(seed), seed=seed)
    assert result.finding == "continuous"
    assert result.holds
    assert result.rise.lo > 0.2
    assert result.rising > 0.8
    assert result.concentration.hi < 0.15
    assert result.curves == 100


def test_a_steep_slope_is_not_taken_for_a_step() -> None:
    height, centre = demand()
    assert measured(height / (1 + np.exp(-(BIDS - centre) / 5)), noise=0.02).holds


def test_a_flat_allocation_is_vacuous() -> None:
    height, _ = demand()
    result = measured(np.broadcast_to(height, (QUERIES, ADS, len(BIDS))))
    assert result.finding == "vacuous"
    assert not result.holds
    assert result.rising < 0.2


def test_curves_of_zero_are_vacuous() -> None:
    result = measured(np.zeros((QUERIES, ADS, len(BIDS))), noise=0.0)
    assert result.finding == "vacuous"
    assert result.to_dict()["concentration"] == {"mean": None, "lo": None, "hi": None}


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_a_winner_takes_all_allocation_has_steps_at_other_bids_on_every_query(noise: float) -> None:
    height, centre = demand()
    result = measured(height * (centre < BIDS), noise)
    assert not result.holds
    assert result.jumps > 0
    assert result.concentration.lo > 0.3


def test_one_curve_with_a_step_among_a_hundred_is_named_with_its_bids() -> None:
    curves = smooth()
    curves[3, 1] = np.where(BIDS > 42, 0.75, 0.1)
    result = measured(curves, noise=0.05)
    assert result.finding == "jump"
    assert result.worst_at == (3, 1)
    assert result.worst.at == (40.0, 45.0)
    assert result.worst.jump.lo > result.worst.critical
    assert result.to_dict()["at"] == [40.0, 45.0]


def test_steps_too_small_for_any_single_curve_are_found_over_all() -> None:
    _, centre = demand()
    result = measured(0.1 + 0.12 * (centre < BIDS), noise=0.02)
    assert result.jumps == 0
    assert result.finding == "concentrated"
    assert not result.holds


def test_impossible_measurements_are_refused() -> None:
    fine = np.zeros((2, 1, 3, 2))
    with pytest.raises(InputError, match="bids"):
        continuity(fine, [1, 1, 2], seed=0)
    with pytest.raises(InputError, match="bids"):
        continuity(fine, [1, 2, 3, 4], seed=0)
    with pytest.raises(InputError, match="answers"):
        continuity(fine[..., :1], [1, 2, 3], seed=0)
    with pytest.raises(InputError, match="tolerance"):
        continuity(fine, [1, 2, 3], seed=0, most_concentrated=0.0)
