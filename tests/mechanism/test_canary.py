"""Bounds that compare two versions: known values, chance, and samples of different size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.canary import Bounds, mean_gain, ratio_bounds, share_bounds, share_increase


def test_shares_have_wilsons_bounds_and_none_without_a_trial() -> None:
    assert share_bounds(0, 0, 0.95) == Bounds(0.0, 1.0)
    found = share_bounds(10, 100, 0.975)  # the textbook's two-sided 95%
    assert (found.lo, found.hi) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_the_difference_of_two_shares_has_newcombes_bound() -> None:
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339.
    assert share_increase(56, 70, 48, 80, 0.975) == pytest.approx(0.0524, abs=1e-4)


@given(st.integers(0, 50), st.integers(50, 500), st.integers(0, 50), st.integers(50, 500))
def test_more_confidence_widens_every_bound(a: int, n: int, b: int, m: int) -> None:
    loose, tight = share_bounds(a, n, 0.8), share_bounds(a, n, 0.99)
    assert tight.lo <= loose.lo <= a / n <= loose.hi <= tight.hi
    assert share_increase(a, n, b, m, 0.99) <= share_increase(a, n, b, m, 0.8)
    narrow, wide = (ratio_bounds((a + 1) / n, (b + 1) / m, a, b, level) for level in (0.8, 0.99))
    assert narrow is not None
    assert wide is not None
    assert wide.lo <= narrow.lo <= narrow.hi <= wide.hi


def test_ratios_of_rates_need_two_positive_rates_and_widen_with_dispersion() -> None:
    assert ratio_bounds(0.0, 1.0, 0, 5, 0.95) is None
    assert ratio_bounds(1.0, 0.0, 5, 0, 0.95) is None
    plain, spread = ratio_bounds(2.0, 1.0, 100, 100, 0.95), ratio_bounds(2.0, 1.0, 100, 100, 0.95, dispersion=1.5)
    assert plain is not None
    assert spread is not None
    assert math.sqrt(plain.lo * plain.hi) == pytest.approx(2.0)
    assert spread.lo < plain.lo < plain.hi < spread.hi


def test_equal_means_rarely_look_lower() -> None:
    rng = np.random.default_rng(1)
    lower = sum(mean_gain(rng.exponential(5, 300), rng.exponential(5, 100), 0.95) < 0 for _ in range(400))
    assert lower <= 40
    assert mean_gain(rng.normal(4, 1, 300), rng.normal(5, 1, 300), 0.95) < 0
