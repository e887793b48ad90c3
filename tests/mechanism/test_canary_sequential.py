"""Bounds that hold at any time: false alarms under continuous monitoring, coverage, and what they are invariant to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mechanism.canary.sequential import Difference, Moments, difference

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, NDArray[np.int64]], tuple[Floats, Floats]]
STREAMS, MINUTES, ALPHA = 400, 120, 0.05


def rare(rng: np.random.Generator, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Failures: one answer in two hundred."""
    events = rng.binomial(count, 0.005).astype(np.float64)
    return events, events


def common(rng: np.random.Generator, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    events = rng.binomial(count, 0.4).astype(np.float64)
    return events, events


def revenue(rng: np.random.Generator, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Clicks on one answer in fifty, at log-normal prices: a few answers hold most of the money."""
    clicks = rng.binomial(count, 0.02)
    prices = rng.lognormal(0.0, 1.2, clicks.sum())
    cohort = np.repeat(np.arange(count.size), clicks.ravel())
    sums = [np.bincount(cohort, prices**power, count.size).reshape(count.shape) for power in (1, 2)]
    return sums[0], sums[1]


def streams(draw: Draw, per_minute: float, share: float, seed: int) -> tuple[Moments, Moments]:
    """Return both versions of many canaries that are equal, (streams, minutes)."""
    rng = np.random.default_rng(seed)
    sides = []
    for part in (share, 1 - share):
        count = rng.poisson(per_minute * part, (STREAMS, MINUTES))
        sides.append(Moments(count.astype(np.float64), *draw(rng, count)))
    return sides[0], sides[1]


def until(side: Moments, end: int) -> Moments:
    return Moments(side.count[:, :end], side.total[:, :end], side.squares[:, :end])


def ever(new: Moments, old: Moments, alarmed: Callable[[Difference], NDArray[np.bool_]]) -> float:
    """Return the share of streams that alarm at any look, one a minute, from any start."""
    seen = np.zeros(STREAMS, dtype=bool)
    for end in range(1, MINUTES + 1):
        seen |= alarmed(difference(until(new, end), until(old, end), ALPHA, 100.0)).any(axis=-1)
    return float(seen.mean())


@pytest.mark.parametrize("draw", [rare, common, revenue])
@pytest.mark.parametrize(("per_minute", "share"), [(20.0, 0.5), (1_000.0, 0.05), (1_000.0, 0.5)])
def test_equal_versions_alarm_at_most_as_often_as_allowed_however_often_one_looks(
    draw: Draw, per_minute: float, share: float
) -> None:
    new, old = streams(draw, per_minute, share, seed=7)
    assert ever(new, old, lambda found: found.lo > 0) <= ALPHA
    assert ever(new, old, lambda found: found.hi < 0) <= ALPHA


def test_a_test_made_for_one_look_would_alarm_too_often() -> None:
    """The simulation can fail: bounds of 95% without the correction for many looks are wrong far more often."""
    new, old = streams(common, 1_000.0, 0.5, seed=7)
    counts = [np.cumsum(column, axis=1) for column in (new.count, new.total, old.count, old.total)]
    n, x, k, y = counts
    p = (x + y) / (n + k)
    z = (x / n - y / k) / np.sqrt(p * (1 - p) * (1 / n + 1 / k))
    assert float((z > 1.645).any(axis=1).mean()) > 4 * ALPHA


def test_a_true_difference_is_never_excluded_and_its_sign_is_found() -> None:
    new, old = streams(common, 1_000.0, 0.5, seed=3)
    rng = np.random.default_rng(4)
    worse = Moments.share(new.count, rng.binomial(new.count.astype(int), 0.45).astype(np.float64))
    found = difference(worse, old, ALPHA, 100.0)
    first = found.lo[:, 0], found.hi[:, 0]
    assert float(((first[0] > 0.05) | (first[1] < 0.05)).mean()) <= 2 * ALPHA
    assert (first[0] > 0).all()


def test_a_version_that_breaks_late_does_not_hide_behind_its_good_start() -> None:
    count = np.full((1, 200), 60.0)
    failed = np.where(np.arange(200) >= 197, 30.0, 0.3)[None, :]
    found = difference(Moments.share(count, failed), Moments.share(count, np.full((1, 200), 0.3)), 0.01, 100.0)
    assert found.estimate[0, 0] < 0.01  # diluted by the good start
    assert found.lo[0].max() > 0.05
    assert int(found.lo[0].argmax()) in range(190, 199)


def test_what_hits_both_versions_in_the_same_minute_is_no_difference() -> None:
    """The new version has more of the traffic in the bad hour; pooled over time it would look worse."""
    share = np.where(np.arange(60) < 30, 0.05, 0.5)
    bad = np.where(np.arange(60) < 30, 0.01, 0.3)
    sides = [Moments.share(6_000 * part, 6_000 * part * bad) for part in (share, 1 - share)]
    pooled = [side.total.sum() / side.count.sum() for side in sides]
    assert pooled[0] > 1.5 * pooled[1]
    found = difference(sides[0], sides[1], 0.01, 100.0)
    assert found.estimate == pytest.approx(0.0, abs=1e-12)
    assert (found.lo < 0).all()


def test_without_answers_on_both_sides_nothing_is_known() -> None:
    empty, some = np.zeros(3), np.array([5.0, 0.0, 2.0])
    found = difference(Moments.share(some, empty), Moments.share(np.array([0.0, 4.0, 0.0]), empty), 0.05, 100.0)
    assert np.isneginf(found.lo).all()
    assert np.isposinf(found.hi).all()


def test_a_known_share_is_a_reference_without_error() -> None:
    count, failed = np.full(10, 100.0), np.full(10, 4.0)
    found = difference(Moments.share(count, failed), Moments.known(0.02, count), 0.01, 100.0, restarts=False)
    assert found.old == pytest.approx(0.02)
    assert found.estimate == pytest.approx(0.02)
    measured = difference(
        Moments.share(count, failed), Moments.share(count, np.full(10, 2.0)), 0.01, 100.0, restarts=False
    )
    assert found.lo > measured.lo


counts_of = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(counts_of, st.floats(0.001, 1000.0), st.integers(0, 2**32 - 1))
def test_bounds_scale_with_the_values_contain_the_estimate_and_widen_with_certainty(
    counts: list[tuple[int, int]], scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sides, scaled = [], []
    for column in np.array(counts, dtype=np.int64).T:
        values = [rng.exponential(1.0, n) * (rng.random(n) < 0.3) for n in column]
        total, squares = np.array([v.sum() for v in values]), np.array([(v**2).sum() for v in values])
        sides.append(Moments(column.astype(np.float64), total, squares))
        scaled.append(Moments(column.astype(np.float64), scale * total, scale**2 * squares))
    found, larger = difference(sides[0], sides[1], 0.05, 100.0), difference(scaled[0], scaled[1], 0.05, 100.0)
    surer = difference(sides[0], sides[1], 0.01, 100.0)
    assert ((found.lo <= found.estimate) & (found.estimate <= found.hi)).all()
    assert ((surer.lo <= found.lo) & (found.hi <= surer.hi)).all()
    if any(side.total.any() for side in sides):
        assert larger.estimate == pytest.approx(scale * found.estimate, rel=1e-6, abs=1e-9 * scale)
        assert larger.lo[0] == pytest.approx(scale * found.lo[0], rel=1e-6)
