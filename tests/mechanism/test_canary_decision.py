"""The decision: what rolls a version back, what makes it safe, and what leaves it open."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mechanism.canary.checks import Figure
from mechanism.canary.cohorts import Tally, evidence
from mechanism.canary.decision import Action, Comparison, Decision, decide
from mechanism.canary.latency import bucket_of
from mechanism.canary.limits import Limits
from mechanism.errors import ConfigError

ALL = Limits(
    max_failure_rate=0.05,
    max_click_rate_loss=0.2,
    max_ad_load_rise=0.25,
    min_answers=200,
)
LATER = 10_000.0


def tally(answers: int = 1_000, **changes: Any) -> Tally:
    """Return a minute of answers: one ad each, every fourth clicked at 1,000,000 micros, 0.2 s, 8 points of penalty."""
    clicks = changes.pop("clicks", answers // 4)
    price = changes.pop("price", 1_000_000)
    slow = changes.pop("slow", 0)
    seconds = {bucket_of(0.2): answers - slow, bucket_of(2.0): slow}
    usual = {
        "answers": answers,
        "failed": answers // 100,
        "ad_free": answers // 10,
        "shown": answers,
        "clicks": clicks,
        "priced": answers,
        "revenue": clicks * price,
        "revenue_squares": clicks * price**2,
        "penalty": 8.0 * answers,
        "penalty_squares": 80.0 * answers,
        "seconds": seconds,
    }
    return Tally(**{**usual, **changes})


def decided(new: Tally, old: Tally | None = None, minutes: int = 10, limits: Limits = ALL) -> Decision:
    """Decide by so many equal minutes."""
    sides = ({minute: one for minute in range(minutes)} for one in (new, old or tally()))
    new_side, old_side = sides
    return decide(evidence(new_side, old_side, LATER, 60.0), limits)


def test_equal_versions_are_safe_once_every_figure_is_certain() -> None:
    decision = decided(tally())
    assert decision.action is Action.SAFE
    assert len(decision.comparisons) == len(Figure)
    assert decision.answers == 10_000
    assert decision.missing(ALL) == ""


def test_few_answers_leave_the_figures_open_and_name_them() -> None:
    decision = decided(tally(40), tally(40), minutes=1)
    assert decision.action is Action.KEEP_GOING
    assert Figure.REVENUE in {one.figure for one in decision.open}
    assert "160 more answers, more certainty: " in decision.missing(ALL)
    assert decided(tally(0, clicks=0), tally(0, clicks=0)).action is Action.KEEP_GOING
    assert decide(evidence({}, {}, LATER, 60.0), ALL).action is Action.KEEP_GOING


@pytest.mark.parametrize(
    ("figure", "worse", "text"),
    [
        (Figure.FAILURE_RATE, {"failed": 80}, "8.0% of its answers failed"),
        (Figure.FAILURES, {"failed": 45}, "3.5% more of its answers failed"),
        (Figure.LATENCY, {"slow": 120}, "more of its answers took too long"),
        (Figure.AD_FREE, {"ad_free": 500}, "more of its answers showed no ad"),
        (Figure.PENALTY, {"penalty": 17_000.0, "penalty_squares": 340_000.0}, "9.0 points more penalty per answer"),
        (Figure.AD_LOAD, {"shown": 1_300}, "it showed 30.0% more ads per answer"),
        (Figure.REVENUE, {"price": 800_000}, "it earned 20.0% less per answer"),
        (Figure.CLICK_RATE, {"clicks": 190, "price": 1_316_000}, "24.0% fewer of its ads were clicked"),
    ],
)
def test_a_version_worse_in_one_figure_is_rolled_back_for_it(figure: Figure, worse: dict[str, Any], text: str) -> None:
    decision = decided(tally(**worse))
    assert decision.action is Action.ROLL_BACK
    assert figure in {one.figure for one in decision.worse}
    assert text in "; ".join(map(str, decision.worse))
    assert all(one.lo <= one.harm <= one.hi for one in decision.comparisons)


def test_a_comparison_is_written_with_the_direction_of_its_bounds() -> None:
    worse = Comparison(Figure.REVENUE, 0.21, 0.12, 0.3, 0.1, Action.ROLL_BACK)
    assert str(worse) == "it earned 21.0% less per answer (between 12.0% worse and 30.0% worse; the limit is 10.0%)"
    better = Comparison(Figure.PENALTY, -1.0, -3.0, math.inf, 8.0, Action.KEEP_GOING)
    assert (
        str(better)
        == "1.0 points less penalty per answer (between 3.0 points better and unknown; the limit is 8.0 points)"
    )
    nothing = Comparison(Figure.REVENUE, 0.0, -math.inf, math.inf, 0.1, Action.KEEP_GOING)
    assert str(nothing) == "revenue: nothing to compare yet"
    share = Comparison(Figure.FAILURE_RATE, 0.03, -0.01, 0.05, 0.02, Action.KEEP_GOING)
    assert str(share) == "3.0% of its answers failed (between 0.0% and 5.0%; the limit is 2.0%)"


def test_a_small_loss_is_tolerated_though_it_is_certain() -> None:
    decision = decided(tally(price=950_000), minutes=60)
    revenue = next(one for one in decision.comparisons if one.figure is Figure.REVENUE)
    assert revenue.lo > 0
    assert decision.action is Action.SAFE


def test_a_better_version_is_safe() -> None:
    better = {"failed": 0, "ad_free": 0, "penalty": 2_000.0, "penalty_squares": 5_000.0, "clicks": 300}
    assert decided(tally(**better)).action is Action.SAFE


def test_unripe_clicks_do_not_count() -> None:
    """A version without a click yet is not worse: the windows of its answers are open."""
    sides = ({minute: one for minute in range(10)} for one in (tally(clicks=0), tally()))
    new, old = sides
    assert decide(evidence(new, old, now=60.0, window_s=60.0), ALL).action is Action.KEEP_GOING
    assert decide(evidence(new, old, now=660.0, window_s=60.0), ALL).action is Action.ROLL_BACK


def test_a_general_outage_is_not_the_new_versions_fault() -> None:
    usual, outage = tally(), tally(failed=600, ad_free=100, clicks=50, slow=700)
    minutes = [usual] * 30 + [outage] + [usual] * 2
    both = dict(enumerate(minutes))
    relative = Limits(max_failure_rate=None, max_click_rate_loss=0.2, max_ad_load_rise=0.25)
    assert decide(evidence(both, both, LATER, 60.0), relative).action is Action.SAFE


def test_a_version_that_fails_after_an_hour_is_rolled_back_in_its_first_bad_minute() -> None:
    good = dict.fromkeys(range(60), tally())
    bad = {**good, 60: tally(failed=300)}
    relative = Limits(max_failure_rate=None)
    assert decide(evidence(good | {60: tally()}, good | {60: tally()}, LATER, 60.0), relative).action is Action.SAFE
    decision = decide(evidence(bad, good | {60: tally()}, LATER, 60.0), relative)
    assert [one.figure for one in decision.worse] == [Figure.FAILURES]


def test_fast_answers_never_count_as_slow() -> None:
    quick, slower = (tally(seconds={bucket_of(s): 1_000}) for s in (0.01, 0.09))
    assert decided(slower, quick).action is Action.SAFE
    assert decided(slower, quick, limits=Limits(fast_s=0.0)).action is Action.ROLL_BACK


def test_figures_without_a_limit_are_not_compared() -> None:
    only = Limits(
        max_failure_rise=0.02,
        max_latency_ratio=None,
        max_revenue_loss=None,
        max_ad_free_rise=None,
        max_penalty_rise=None,
    )
    assert [one.figure for one in decided(tally(clicks=0), limits=only).comparisons] == [Figure.FAILURES]


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence": 1.0},
        {"confidence": 0.2},
        {"max_latency_ratio": 0.0},
        {"max_revenue_loss": math.nan},
        {"min_answers": -1},
        {"fast_s": math.inf},
    ],
)
def test_limits_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"guard.{next(iter(wrong))}"):
        Limits(**wrong)
