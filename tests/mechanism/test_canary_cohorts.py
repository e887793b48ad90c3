"""Tallies and cohorts: sums, JSON, ripeness, and the latency histogram against exact quantiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.canary.cohorts import Cohorts, Tally, evidence, is_ripe, minute_of, total
from mechanism.canary.latency import BUCKETS, bucket_of, quantile, slower

answers = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.floats(0, 300), st.floats(0, 50), st.integers(0, 10**7)), max_size=20
)


def tally(rows: list[tuple[bool, int, float, float, int]]) -> Tally:
    made = Tally()
    for failed, shown, seconds, penalty, paid in rows:
        made.add_answer(failed=failed, shown=shown, seconds=seconds, penalty=penalty, priced=True)
        made.add_revenue(paid)
    return made


@given(answers, answers)
def test_a_merged_tally_counts_what_its_parts_count_and_survives_json(
    one: list[tuple[bool, int, float, float, int]], other: list[tuple[bool, int, float, float, int]]
) -> None:
    merged = total([tally(one), tally(other)])
    both = tally(one + other)
    assert (merged.answers, merged.failed, merged.ad_free, merged.seconds) == (
        both.answers,
        both.failed,
        both.ad_free,
        both.seconds,
    )
    assert merged.penalty_squares == pytest.approx(both.penalty_squares)
    assert merged.revenue_squares == sum(float(row[4]) ** 2 for row in one + other)
    assert Tally.from_dict(json.loads(json.dumps(merged.to_dict()))) == merged
    assert Tally.from_dict({**merged.to_dict(), "of a later version": 1}) == merged


def test_two_clicks_on_one_answer_are_one_value() -> None:
    made = Tally()
    made.add_revenue(30)
    made.add_revenue(20, before=30)
    assert (made.revenue, made.revenue_squares) == (50, 2_500)


def test_a_minute_is_ripe_when_the_window_of_its_last_answer_has_passed() -> None:
    minute = minute_of(605.0)
    assert minute == 10
    assert not is_ripe(minute, 659.9 + 120, 120.0)
    assert is_ripe(minute, 660.0 + 120, 120.0)


def test_both_versions_are_compared_over_the_same_minutes_and_clicks_over_the_ripe_ones() -> None:
    new = {11: Tally(answers=1), 13: Tally(answers=3)}
    old = {10: Tally(answers=5), 11: Tally(answers=7)}
    found = evidence(new, old, now=12 * 60.0, window_s=0.0)
    assert (found.early.new.answers.tolist(), found.early.old.answers.tolist()) == ([0, 1, 3], [5, 7, 0])
    assert (found.ripe.new.answers.tolist(), found.ripe.old.answers.tolist()) == ([0, 1], [5, 7])
    apart = evidence(new, old, now=12 * 60.0, window_s=0.0, concurrent=False)
    assert (apart.early.new.answers.tolist(), apart.ripe.old.answers.tolist()) == ([4], [12])
    nothing = evidence({}, {}, now=0.0, window_s=0.0)
    assert nothing.ripe.new.answers.tolist() == [0]


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_quantiles_of_the_histogram_are_within_a_bucket_of_the_exact_ones(q: float) -> None:
    seconds = np.random.default_rng(2).lognormal(0.0, 0.8, 5_000)
    histogram = np.bincount([bucket_of(s) for s in seconds], minlength=BUCKETS).astype(float)
    exact = float(np.quantile(seconds, q))
    assert float(quantile(histogram, q)) == pytest.approx(exact, rel=0.05)
    assert float(slower(histogram[None, :], np.array(exact))[0]) == pytest.approx(5_000 * (1 - q), rel=0.05)


def test_a_histogram_may_be_empty_or_open_at_its_end() -> None:
    empty = np.zeros(BUCKETS)
    assert float(quantile(empty, 0.95)) == 0
    longest = empty.copy()
    longest[bucket_of(1_000.0)] = 4
    assert float(quantile(longest, 0.95)) == pytest.approx(113.2, abs=0.1)
    assert slower(longest[None, :], np.array(100.0)).tolist() == [4]
    assert slower(longest[None, :], np.array(500.0)).tolist() == [0]  # not known to be slower


def test_columns_can_be_cut_in_time() -> None:
    cohorts = Cohorts.of([Tally(answers=1, seconds={3: 1}), Tally(answers=2, seconds={4: 2})])
    assert cohorts.first(1).answers.tolist() == [1]
    assert cohorts.first(1).seconds.shape == (1, BUCKETS)
