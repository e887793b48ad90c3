"""What the mechanism maximises: the declared value of the clicks minus a penalty for faulty insertions.

Eq. 2, 5 and 8 of arXiv 2512.10551, in bid points of `prompt.MICROS_PER_POINT` micros. These figures are for learning
and for result tables; what an advertiser pays is decided in `mechanism.payments`, in integer micros.
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
    """Weights of s_resp, in points.

    `per_ad` counts for every insertion, `per_extra_ad` in addition for each insertion past `flood_after`, `per_fault`
    for every fault that the parser found. A weight that is negative or not finite is a ConfigError.
    """

    per_ad: float = 10.0
    flood_after: int = 2
    per_extra_ad: float = 20.0
    per_fault: float = 50.0

    def __post_init__(self) -> None:
        for name in ("per_ad", "flood_after", "per_extra_ad", "per_fault"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"penalty.{name}", weight, "give a finite number >= 0")


def s_resp(answer: Answer, penalty: Penalty) -> float:
    """Return the penalty of an answer for its insertions, in points >= 0 (Eq. 2 and 8).

    An ad that is inserted twice counts twice.
    """
    ads = len(answer.insertions)
    extra = max(0, ads - penalty.flood_after)
    return penalty.per_ad * ads + penalty.per_extra_ad * extra + penalty.per_fault * len(answer.faults)


def value(answer: Answer, bids: Mapping[AdId, Micros], ctr: Mapping[AdId, float]) -> float:
    """Return the declared value sum_i b_i ctr_i 1(a_i in y), in points (first term of Eq. 5).

    An ad counts once however often it is inserted. `bids` are micros a click, `ctr` click probabilities, true or
    predicted; entries of ads that the answer does not show are ignored.

    Raises:
        InputError: if a shown ad has no bid or no click probability, or one out of range.
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
    answer: Answer,
    bids: Mapping[AdId, Micros],
    ctr: Mapping[AdId, float],
    penalty: Penalty,
    lam: float = 1.0,
    *,
    quality: float = 1.0,
    quality_weight: float = 0.0,
) -> float:
    """Return R(y) = sum_i b_i ctr_i 1(a_i in y) - lam * s_resp(y) - quality_weight * (1 - quality), in points.

    Eq. 5 with the penalty of Eq. 8, and, where it is weighted, what the answer lost in quality (0..1) apart from its
    ads, in points per unit.

    Raises:
        InputError: if `lam`, `quality` or `quality_weight` is out of range; bad bids and probabilities as in `value`.
    """
    for name, weight in (("lambda", lam), ("quality weight", quality_weight)):
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(name, weight, "give a finite number >= 0")
    if not 0 <= quality <= 1:
        raise InputError("quality of an answer", quality, "give a number within 0..1")
    return value(answer, bids, ctr) - lam * s_resp(answer, penalty) - quality_weight * (1.0 - quality)


def objective(rewards: Sequence[float], log_ratios: Sequence[float], beta: float) -> float:
    """Return the sample estimate of Eq. 2, E[R(y)] - beta * KL(pi || pi_0), in points.

    `rewards` (answers,) and `log_ratios` (answers,), log pi(y) - log pi_0(y) in nats, belong to the same answers,
    sampled from pi; `beta` is in points per nat.

    Raises:
        InputError: if there are no rewards, or not one log ratio for each.
    """
    if not rewards or len(rewards) != len(log_ratios):
        raise InputError("log_ratios", len(log_ratios), f"give one for each of the {len(rewards)} (at least 1) rewards")
    return (math.fsum(rewards) - beta * math.fsum(log_ratios)) / len(rewards)
