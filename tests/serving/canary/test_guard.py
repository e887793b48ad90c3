"""The guard of the event log: what it keeps, rolls back and waits for, side by side and one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from mechanism.canary.cohorts import Tally
from mechanism.canary.limits import Limits
from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from serving.canary.guard import GuardDecision, GuardSettings, figures_of, judge

SETTINGS = GuardSettings(Limits(min_answers=300), patience_answers=2_000)
WINDOW_S = 60.0


def minutes(
    count: int,
    seed: int,
    first: int = 0,
    *,
    per_minute: int = 50,
    seconds: float = 0.2,
    failed: float = 0.01,
    filled: float = 0.9,
    penalty: float = 8.0,
    click_rate: float = 0.4,
) -> dict[int, Tally]:
    """Return minutes of answers: log-normal seconds, clicks at prices of 1 to 100 points."""
    rng = np.random.default_rng(seed)
    found = {}
    for minute in range(first, first + count):
        tally = found[minute] = Tally()
        for _ in range(per_minute):
            fails = bool(rng.random() < failed)
            shown = int(not fails and rng.random() < filled)
            tally.add_answer(
                failed=fails,
                shown=shown,
                seconds=seconds * float(rng.lognormal(0, 0.4)),
                penalty=penalty * float(rng.random()) * 2,
                priced=True,
            )
            if rng.random() < click_rate:
                tally.clicks += 1
                tally.add_revenue(int(rng.integers(1, 101)) * MICROS_PER_POINT)
    return found


def judged(
    new: dict[int, Tally], old: dict[int, Tally], *, concurrent: bool = True, now_minute: int = 1_000
) -> GuardDecision:
    return judge(new, old, now_minute * 60.0, WINDOW_S, SETTINGS, concurrent=concurrent)


@pytest.mark.parametrize("concurrent", [True, False])
def test_a_version_equal_to_the_one_before_is_kept(concurrent: bool) -> None:
    decision = judged(minutes(40, 1, 40 * (not concurrent)), minutes(40, 2), concurrent=concurrent)
    assert decision.action == "keep"
    assert decision.figures["new"]["answers"] == 2_000
    assert decision.figures["old"]["answers"] == (2_000 if concurrent else 1_000)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"seconds": 2.0}, "took too long"),
        ({"failed": 0.3}, "more of its answers failed"),
        ({"filled": 0.2}, "showed no ad"),
        ({"penalty": 30.0}, "points more penalty"),
        ({"click_rate": 0.15}, "less per answer"),
    ],
)
@pytest.mark.parametrize("concurrent", [True, False])
def test_a_worse_version_is_rolled_back_with_a_reason(worse: dict[str, float], reason: str, concurrent: bool) -> None:
    decision = judged(minutes(30, 3, 30 * (not concurrent), **worse), minutes(30, 1), concurrent=concurrent)  # type: ignore[arg-type]
    assert decision.action == "rollback"
    assert reason in decision.reason


def test_a_tenfold_latency_is_found_after_few_answers() -> None:
    new = minutes(1, 2, 30, per_minute=40, seconds=2.0)
    assert judged(new, minutes(30, 1), concurrent=False, now_minute=31).action == "rollback"


def test_one_slow_answer_among_many_rolls_nothing_back() -> None:
    new = minutes(1, 2, 5)
    new[5].add_answer(failed=False, shown=1, seconds=60.0, penalty=8.0, priced=True)
    decision = judged(new, minutes(6, 1))
    assert decision.action == "wait"
    assert decision.figures["new"]["answers"] == 51


def test_answers_whose_click_window_is_open_earn_nothing_yet_and_are_waited_for() -> None:
    decision = judged(minutes(40, 2, click_rate=0.0), minutes(40, 1), now_minute=5)
    assert decision.action == "wait"
    assert decision.figures["new"]["revenue"] == 0.0
    assert "200 answers so far; needed: 100 more answers" in decision.reason


def test_a_version_that_stays_undecided_is_kept_when_the_patience_ends() -> None:
    decision = judged(minutes(41, 5, click_rate=0.02), minutes(41, 6, click_rate=0.02))
    assert decision.action == "keep"
    assert "not certain: it earned" in decision.reason


def test_a_first_version_is_compared_with_nothing() -> None:
    decision = judged(minutes(6, 1), {}, concurrent=False)
    assert (decision.action, decision.figures["old"]["revenue"]) == ("keep", None)
    assert "no previous version" in decision.reason
    assert judged({}, {}, concurrent=False).action == "wait"


def test_figures_have_the_margin_of_their_revenue() -> None:
    figures = figures_of(minutes(20, 1), 60_000.0, WINDOW_S)
    revenue, error = figures["revenue"], figures["revenue_error"]
    assert revenue == pytest.approx(20.0, rel=0.2)
    assert error == pytest.approx(30.0 / np.sqrt(1_000), rel=0.2)


@pytest.mark.parametrize("wrong", [{"patience_answers": 0}, {"reference_answers": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="guard"):
        GuardSettings(Limits(), **wrong)
