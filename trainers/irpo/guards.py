"""When a run must stop: each guard looks at the validation figures of all epochs so far, epoch 0 being the base."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mechanism.errors import GuardError
from trainers.config import GuardConfig
from trainers.irpo.validation import Validation


def check_finite(now: Validation) -> None:
    """Raises GuardError if a figure is not a number."""
    figures = {name: v for name, v in now.to_dict().items() if v is not None}
    if not all(math.isfinite(v) for v in figures.values()):
        raise GuardError("nan", "a validation figure is not finite; lower optimisation.learning_rate", figures)


def check_guards(history: Sequence[Validation], config: GuardConfig) -> None:
    """Raises GuardError for the newest epoch in `history`; the epochs before it are good."""
    base, now = history[0], history[-1]
    check_finite(now)
    if now.ads_per_answer < config.min_ads_per_answer:
        raise GuardError(
            "collapse",
            "the policy has all but stopped inserting ads; lower optimisation.learning_rate or penalty.per_ad",
            {"ads_per_answer": now.ads_per_answer, "allowed": config.min_ads_per_answer, "base": base.ads_per_answer},
        )
    if now.kl_to_base > config.max_kl_to_base:
        raise GuardError(
            "kl",
            "the policy has drifted too far from its base model; set optimisation.reference to base, or fewer epochs",
            {"kl_to_base": now.kl_to_base, "allowed": config.max_kl_to_base},
        )
    if len(history) < 2:
        return
    before = history[-2]
    if before.true_reward is None or now.true_reward is None:
        # a run on logs: whether the learned reward deceives is for the gates, which read clicks that were held out
        return
    drop = before.true_reward - now.true_reward
    if now.learned_reward > before.learned_reward and drop > config.reward_hacking_drop * abs(before.true_reward):
        raise GuardError(
            "reward_hacking",
            "the learned reward rises while the true one falls: collect more feedback (feedback.contexts)",
            {
                "learned_before": before.learned_reward,
                "learned_now": now.learned_reward,
                "true_before": before.true_reward,
                "true_now": now.true_reward,
            },
        )
