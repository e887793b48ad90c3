"""The live guard: what sends a version back, what lets it stay, and that chance alone does neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from serving.canary.guard import GuardSettings, LiveAnswer, judge

SETTINGS = GuardSettings(least=300, least_early=40)


def window(
    count: int = 500,
    seed: int = 0,
    *,
    seconds: float = 0.2,
    failed: float = 0.01,
    filled: float = 0.9,
    penalty: float = 8.0,
    click_rate: float = 0.4,
    ripe: bool = True,
) -> list[LiveAnswer]:
    """Answers of a version: seconds spread over a factor of two or so, clicks that cost 1 to 100 points."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(count):
        fails = bool(rng.random() < failed)
        paid = int(rng.integers(1, 101)) * MICROS_PER_POINT if rng.random() < click_rate else 0
        answers.append(
            LiveAnswer(
                seconds * float(rng.lognormal(0, 0.4)),
                fails,
                not fails and bool(rng.random() < filled),
                penalty * float(rng.random()) * 2,
                paid if ripe else None,
            )
        )
    return answers


def test_a_version_like_the_one_before_is_kept() -> None:
    verdict = judge(window(seed=1), window(seed=2), SETTINGS)
    assert verdict.decision == "keep"
    assert verdict.figures["new"]["answers"] == 500


def test_two_equal_versions_are_seldom_told_apart() -> None:
    sent_back = sum(
        judge(window(300, 2 * i), window(300, 2 * i + 1), SETTINGS).decision == "rollback" for i in range(200)
    )
    assert sent_back <= 6


@pytest.mark.parametrize(
    ("worse", "told"),
    [
        (window(60, 3, seconds=2.0, ripe=False), "take up to"),
        (window(60, 3, failed=0.3, ripe=False), "answers fail"),
        (window(60, 3, filled=0.2, ripe=False), "show no ad"),
        (window(400, 3, click_rate=0.2), "revenue of"),
        (window(400, 3, penalty=30.0), "experience of"),
    ],
)
def test_what_is_worse_goes_back_with_its_reason(worse: Sequence[LiveAnswer], told: str) -> None:
    verdict = judge(window(seed=1), worse, SETTINGS)
    assert verdict.decision == "rollback"
    assert told in verdict.reason


def test_ten_times_slower_is_seen_after_few_answers() -> None:
    assert judge(window(seed=1), window(40, 2, seconds=2.0, ripe=False), SETTINGS).decision == "rollback"


def test_one_slow_answer_among_many_sends_nothing_back() -> None:
    new = window(60, 2, ripe=False)
    new[5] = LiveAnswer(60.0, False, True, 8.0, None)
    assert judge(window(seed=1), new, SETTINGS).decision == "wait"


def test_what_is_quick_enough_for_any_reader_is_not_slow() -> None:
    assert judge(window(seed=1, seconds=0.01), window(seed=2, seconds=0.09), SETTINGS).decision == "keep"


def test_more_revenue_and_fewer_ads_than_before_are_no_reason() -> None:
    better = window(400, 2, click_rate=0.8, penalty=2.0, seconds=0.02, filled=1.0, failed=0.0)
    assert judge(window(seed=1), better, SETTINGS).decision == "keep"


def test_it_waits_for_answers_whose_clicks_have_come() -> None:
    verdict = judge(window(seed=1), window(400, 2)[:299] + window(100, 3, ripe=False), SETTINGS)
    assert verdict.decision == "wait"
    assert "299 of 300" in verdict.reason


def test_the_first_version_has_nothing_to_fall_behind() -> None:
    assert judge([], window(), SETTINGS).decision == "keep"
    assert judge([], [], SETTINGS).decision == "wait"


@pytest.mark.parametrize("wrong", [{"least": 1}, {"slower": 0.5}, {"level": 1.0}, {"revenue": -0.1}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="guard"):
        GuardSettings(**wrong)  # type: ignore[arg-type]
