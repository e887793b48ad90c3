"""Intervals have their coverage, repeat by seed and refuse input without an estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.statistics import (
    Interval,
    bootstrap_interval,
    difference_interval,
    proportion_interval,
    ratio_interval,
    resampled_means,
    wilson_bounds,
)

FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.integers(0, 2**32), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_the_interval_encloses_the_mean_stays_within_the_data_and_repeats(
    values: list[float], seed: int, level: float
) -> None:
    interval = bootstrap_interval(values, seed, level, draws=200)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= interval.lo <= interval.mean <= interval.hi <= max(values) + slack
    assert interval == bootstrap_interval(values, seed, level, draws=200)


def test_the_bootstrap_covers_the_true_mean_at_about_its_level() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = bootstrap_interval(rng.exponential(2.0, size=80), seed=trial, draws=400)
        covered += interval.lo <= 2.0 <= interval.hi
    assert 0.88 <= covered / 300 <= 0.99


def test_the_width_matches_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(5.0, 3.0, size=4000)
    interval = bootstrap_interval(values, seed=2, draws=4000)
    assert interval.hi - interval.lo == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4000), rel=0.08)


def test_resampling_is_joint_over_rows_and_independent_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(2, 50))
    values[1] = 2 * values[0] + 1
    whole = resampled_means(values, seed=4, draws=90)
    np.testing.assert_allclose(whole[:, 1], 2 * whole[:, 0] + 1)
    monkeypatch.setattr("mechanism.statistics._BLOCK", 700)
    np.testing.assert_allclose(resampled_means(values, seed=4, draws=90), whole)


def test_paired_constant_ratios_and_differences_have_intervals_of_width_zero() -> None:
    base = np.random.default_rng(5).exponential(size=200)
    ratio = ratio_interval(2.5 * base, base, seed=6)
    assert ratio.ends == pytest.approx((2.5, 2.5, 2.5))
    assert difference_interval(base + 3, base, seed=6).ends == pytest.approx((3.0, 3.0, 3.0))


def test_a_ratio_is_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    assert ratio_interval([0.0, 10.0], [1.0, 1.0], seed=0).mean == pytest.approx(5.0)
    assert ratio_interval([1.0, 9.0], [0.0, 4.0], seed=0).mean == pytest.approx(2.5)


def test_a_denominator_near_zero_leaves_the_ratio_unbounded_and_json_able() -> None:
    rare = np.zeros(30)
    rare[0] = 1.0  # about a third of the resamples miss the one click
    interval = ratio_interval(np.ones(30), rare, seed=7)
    assert interval.hi == math.inf
    assert interval.lo > 0
    assert interval.to_dict()["hi"] is None


def test_wilson_is_informative_without_events_and_symmetric() -> None:
    none = proportion_interval(0, 10_000)
    assert none.lo == none.mean == 0.0
    assert 3e-4 < none.hi < 4e-4
    half = proportion_interval(50, 100)
    assert half.mean - half.lo == pytest.approx(half.hi - half.mean)
    assert proportion_interval(7, 7).ends[::2] == (1.0, 1.0)


@pytest.mark.parametrize(
    "bad",
    [[], [math.nan], [1.0, math.inf], [[1.0], [2.0]], ["a"], [[1.0], [2.0, 3.0]]],
    ids=["empty", "nan", "infinite", "matrix", "text", "ragged"],
)
def test_bad_measurements_are_input_errors(bad: list[object]) -> None:
    with pytest.raises(InputError):
        bootstrap_interval(bad, seed=0)  # type: ignore[arg-type]


def test_bad_arguments_are_input_errors() -> None:
    with pytest.raises(InputError, match="level"):
        bootstrap_interval([1.0], seed=0, level=95)
    with pytest.raises(InputError, match="draws"):
        bootstrap_interval([1.0], seed=0, draws=0)
    with pytest.raises(InputError, match="same queries"):
        ratio_interval([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(InputError, match="difference"):
        ratio_interval([1.0, 2.0], [-1.0, 1.0], seed=0)
    with pytest.raises(InputError, match="trials"):
        proportion_interval(3, 2)


def test_an_interval_becomes_json() -> None:
    assert Interval(1.0, 0.5, 1.5).to_dict() == {"mean": 1.0, "lo": 0.5, "hi": 1.5}


@given(st.integers(1, 5_000), st.floats(0.5, 5.0))
def test_wilson_bounds_are_exact_at_the_ends(trials: int, z: float) -> None:
    assert wilson_bounds(0, trials, z)[0] == 0.0
    assert wilson_bounds(trials, trials, z)[1] == 1.0
