"""Each guard fires on the history that it is for, with its remedy, and is quiet on a good one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mechanism.errors import GuardError
from tests.inference.conftest import byte_tokenizer, make_context, random_policy
from trainers.config import GuardConfig
from trainers.irpo.validation import Validation, ValidationAnswer, check_guards, divergences_from, kl_to_base

BASE = Validation(
    revenue=10.0,
    true_reward=-5.0,
    learned_reward=-4.0,
    ads_per_answer=1.8,
    faults_per_answer=0.0,
    kl_to_base=0.0,
    answers=256,
)
FIRST = replace(BASE, revenue=20.0, true_reward=8.0, learned_reward=9.0, ads_per_answer=1.5, kl_to_base=12.0)
SECOND = replace(FIRST, revenue=26.0, true_reward=14.0, learned_reward=15.0, kl_to_base=20.0)
CONFIG = GuardConfig()


def fired(history: list[Validation], config: GuardConfig = CONFIG) -> GuardError:
    with pytest.raises(GuardError) as caught:
        check_guards(history, config)
    return caught.value


def test_good_histories_pass() -> None:
    for length in (1, 2, 3):
        check_guards([BASE, FIRST, SECOND][:length], CONFIG)


def test_a_small_step_back_passes() -> None:
    slightly = replace(SECOND, true_reward=FIRST.true_reward * 0.9, learned_reward=FIRST.learned_reward + 1)
    check_guards([BASE, FIRST, slightly], CONFIG)
    both_fall = replace(SECOND, true_reward=2.0, learned_reward=3.0)
    check_guards([BASE, FIRST, both_fall], CONFIG)


@pytest.mark.parametrize("field", ["revenue", "true_reward", "learned_reward", "kl_to_base"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite(field: str, value: float) -> None:
    error = fired([BASE, Validation(**{**FIRST.to_dict(), field: value})])  # type: ignore[arg-type]
    assert error.guard == "nan"
    assert "lower optimisation.learning_rate" in str(error)


def test_collapse_to_no_ads() -> None:
    error = fired([BASE, replace(FIRST, ads_per_answer=0.04)])
    assert error.guard == "collapse"
    assert "lower optimisation.learning_rate or penalty.per_ad" in str(error)
    assert error.evidence == {"ads_per_answer": 0.04, "allowed": 0.1, "base": 1.8}
    check_guards([BASE, replace(FIRST, ads_per_answer=0.04)], GuardConfig(min_ads_per_answer=0.0))


def test_drift_from_the_base() -> None:
    error = fired([BASE, FIRST, replace(SECOND, kl_to_base=61.0)])
    assert error.guard == "kl"
    assert "set optimisation.reference to base, or fewer epochs" in str(error)
    assert error.evidence["allowed"] == 60.0


def test_a_policy_that_has_drifted_fires_and_one_nearby_does_not() -> None:
    base, near = (random_policy(byte_tokenizer(words=True)) for _ in range(2))
    far = random_policy(byte_tokenizer(words=True), seed=1)
    contexts = [make_context(), make_context(["Nest", "A1"], query="Hi", name="two")] * 4
    with torch.no_grad():
        near.model.lm_head.weight.mul_(1.02)
        far.model.lm_head.weight.mul_(3.0)
    measured = {}
    for name, policy in (("near", near), ("far", far)):
        answers = [own[0] for own in policy.generate(contexts, 1, 0)]
        divergences = divergences_from(base, policy, contexts, answers)
        kl = kl_to_base([ValidationAnswer(a, d) for a, d in zip(answers, divergences, strict=True)])
        measured[name] = replace(SECOND, kl_to_base=kl)
    assert 0 < measured["near"].kl_to_base < 5
    check_guards([BASE, FIRST, measured["near"]], CONFIG)
    assert fired([BASE, FIRST, measured["far"]]).guard == "kl"


def test_reward_hacking() -> None:
    hacked = replace(SECOND, true_reward=3.0, learned_reward=30.0)
    error = fired([BASE, FIRST, hacked])
    assert error.guard == "reward_hacking"
    assert "collect more feedback (feedback.contexts)" in str(error)
    assert error.evidence == {"learned_before": 9.0, "learned_now": 30.0, "true_before": 8.0, "true_now": 3.0}


def test_reward_hacking_is_seen_where_rewards_are_negative() -> None:
    worse = replace(BASE, true_reward=-8.0, learned_reward=0.0)
    assert fired([BASE, worse]).guard == "reward_hacking"


def test_only_the_newest_epoch_is_judged() -> None:
    collapsed = replace(FIRST, ads_per_answer=0.0)
    check_guards([BASE, collapsed, SECOND], CONFIG)
