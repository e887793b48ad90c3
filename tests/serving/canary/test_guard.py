"""The guard: what rolls a version back, what keeps it, and that chance alone does neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from serving.canary.guard import GuardSettings, ServedAnswer, decide

SETTINGS = GuardSettings(min_answers=300, min_early_answers=40)


def sample(
    count: int = 500,
    seed: int = 0,
    *,
    seconds: float = 0.2,
    failed: float = 0.01,
    filled: float = 0.9,
    penalty: float = 8.0,
    click_rate: float = 0.4,
    clicks_in: bool = True,
) -> list[ServedAnswer]:
    """Answers of a version: log-normal seconds, clicks at prices of 1 to 100 points."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(count):
        fails = bool(rng.random() < failed)
        paid = int(rng.integers(1, 101)) * MICROS_PER_POINT if rng.random() < click_rate else 0
        answers.append(
            ServedAnswer(
                seconds * float(rng.lognormal(0, 0.4)),
                fails,
                not fails and bool(rng.random() < filled),
                penalty * float(rng.random()) * 2,
                paid if clicks_in else None,
            )
        )
    return answers


def test_a_version_equal_to_the_one_before_is_kept() -> None:
    decision = decide(sample(seed=1), sample(seed=2), SETTINGS)
    assert decision.action == "keep"
    assert decision.figures["new"]["answers"] == 500


def test_two_equal_versions_are_rarely_rolled_back() -> None:
    rolled_back = sum(
        decide(sample(300, 2 * i), sample(300, 2 * i + 1), SETTINGS).action == "rollback" for i in range(200)
    )
    assert rolled_back <= 6


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (sample(60, 3, seconds=2.0, clicks_in=False), "take up to"),
        (sample(60, 3, failed=0.3, clicks_in=False), "answers fail"),
        (sample(60, 3, filled=0.2, clicks_in=False), "show no ad"),
        (sample(400, 3, click_rate=0.2), "revenue of"),
        (sample(400, 3, penalty=30.0), "experience of"),
    ],
)
def test_a_worse_version_is_rolled_back_with_a_reason(worse: Sequence[ServedAnswer], reason: str) -> None:
    decision = decide(sample(seed=1), worse, SETTINGS)
    assert decision.action == "rollback"
    assert reason in decision.reason


def test_a_tenfold_latency_is_found_after_few_answers() -> None:
    assert decide(sample(seed=1), sample(40, 2, seconds=2.0, clicks_in=False), SETTINGS).action == "rollback"


def test_one_slow_answer_among_many_rolls_nothing_back() -> None:
    new = sample(60, 2, clicks_in=False)
    new[5] = ServedAnswer(60.0, False, True, 8.0, None)
    assert decide(sample(seed=1), new, SETTINGS).action == "wait"


def test_fast_answers_never_count_as_slow() -> None:
    assert decide(sample(seed=1, seconds=0.01), sample(seed=2, seconds=0.09), SETTINGS).action == "keep"


def test_a_better_version_is_kept() -> None:
    better = sample(400, 2, click_rate=0.8, penalty=2.0, seconds=0.02, filled=1.0, failed=0.0)
    assert decide(sample(seed=1), better, SETTINGS).action == "keep"


def test_it_waits_for_answers_whose_click_window_has_closed() -> None:
    decision = decide(sample(seed=1), sample(400, 2)[:299] + sample(100, 3, clicks_in=False), SETTINGS)
    assert decision.action == "wait"
    assert "299 of 300" in decision.reason


def test_a_first_version_is_compared_with_nothing() -> None:
    assert decide([], sample(), SETTINGS).action == "keep"
    assert decide([], [], SETTINGS).action == "wait"


@pytest.mark.parametrize(
    "wrong", [{"min_answers": 1}, {"max_latency_ratio": 0.5}, {"confidence": 1.0}, {"max_revenue_loss": -0.1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="guard"):
        GuardSettings(**wrong)  # type: ignore[arg-type]
