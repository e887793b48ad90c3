"""What the mechanism maximises: declared value of the clicks minus the penalty for faulty insertions.

Eq. 2, 5 and 8 of arXiv 2512.10551, in bid points (a point is `prompt.MICROS_PER_POINT` micros). These are figures
for learning and for tables; what anybody pays is settled in `mechanism.payments`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mechanism.errors import ConfigError, InputError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Answer, Micros


@dataclass(frozen=True, slots=True)
class Penalty:
    """Weights of s_resp, in points: `per_ad` for every insertion, `per_extra_ad` more for each one past `flood_after`,
    `per_fault` for every fault that the parser found. A weight that is negative or not finite raises ConfigError."""

    per_ad: float = 10.0
    flood_after: int = 3
    per_extra_ad: float = 20.0
    per_fault: float = 50.0

    def __post_init__(self) -> None:
        for name in ("per_ad", "flood_after", "per_extra_ad", "per_fault"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"penalty.{name}", weight, "give a finite number >= 0")


def s_resp(answer: Answer, penalty: Penalty) -> float:
    """Penalty of an answer in points, >= 0 (Eq. 2, 8). An ad that is inserted twice counts twice."""
    ads = len(answer.insertions)
    extra = max(0, ads - penalty.flood_after)
    return penalty.per_ad * ads + penalty.per_extra_ad * extra + penalty.per_fault * len(answer.faults)


def value(answer: Answer, bids: Mapping[AdId, Micros], ctr: Mapping[AdId, float]) -> float:
    """Declared value sum_i b_i ctr_i 1(a_i in y), in points; an ad counts once however often it is inserted.

    `bids` are micros a click, `ctr` click probabilities (true or predicted). Raises InputError when a shown ad has no
    bid or no probability, or one that is out of range.
    """
    terms = []
    for ad_id in answer.shown():
        bid, rate = bids.get(ad_id), ctr.get(ad_id)
        if bid is None or bid < 0:
            raise InputError(f"bid of shown ad {ad_id!r}", bid, "give its bid in this auction, in micros >= 0")
        if rate is None or not 0 <= rate <= 1:
            raise InputError(f"click probability of shown ad {ad_id!r}", rate, "give a number within 0..1")
        terms.append(bid / MICROS_PER_POINT * float(rate))
    return math.fsum(terms)


def reward(
    answer: Answer, bids: Mapping[AdId, Micros], ctr: Mapping[AdId, float], penalty: Penalty, lam: float = 1.0
) -> float:
    """R(y) = sum_i b_i ctr_i 1(a_i in y) - lam * s_resp(y), in points (Eq. 5 with the penalty of Eq. 8).

    Errors as in `value`; InputError for a `lam` that is negative or not finite.
    """
    if not (math.isfinite(lam) and lam >= 0):
        raise InputError("lambda", lam, "give a finite number >= 0")
    return value(answer, bids, ctr) - lam * s_resp(answer, penalty)


def objective(rewards: Sequence[float], log_ratios: Sequence[float], beta: float) -> float:
    """Sample estimate of Eq. 2, E[R(y)] - beta * KL(pi || pi_0), in points.

    `rewards` and `log_ratios` (log pi(y) - log pi_0(y), nats) belong to the same answers, sampled from pi.
    Raises InputError for empty or unequal lengths.
    """
    if not rewards or len(rewards) != len(log_ratios):
        raise InputError("log_ratios", len(log_ratios), f"give one for each of the {len(rewards)} (at least 1) rewards")
    return (math.fsum(rewards) - beta * math.fsum(log_ratios)) / len(rewards)
