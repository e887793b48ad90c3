"""MOSAIC (arXiv 2405.05905): sample many candidate answers, draw one in proportion to the optimal policy's density.

With answers y_1 … y_M from pi_gen and the total reward r(y) of all advertisers and the platform, answer j is drawn with
probability proportional to pi_ref(y_j) / pi_gen(y_j) * exp(r(y_j) / tau). Costs M generations a query. Rewards are in
points, log-probabilities in nats, so tau is in points per nat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mechanism.baselines import AnswerPredictor, Generator, RivalAnswer, only
from mechanism.errors import InputError
from mechanism.objective import Penalty, s_resp
from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import Floats, finite_array
from mechanism.types import Context, Micros


@dataclass(frozen=True, slots=True)
class MosaicSettings:
    """`samples` is M, `tau` the weight of the reference policy (0: the best of M), `lam` and `penalty` those of Eq. 2.

    `payment`: "first_price" charges the bid for a click, as the generative auction does, so that tables compare the
    allocations; "offset" charges the truthful payment of MOSAIC, which is never more.
    """

    samples: int = 20
    tau: float = 1.0
    lam: float = 1.0
    penalty: Penalty = field(default_factory=Penalty)
    payment: Literal["first_price", "offset"] = "first_price"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError("samples", self.samples, "give at least one candidate answer")
        _check_tau(self.tau)


def _check_tau(tau: float) -> None:
    if not math.isfinite(tau) or tau < 0:
        raise InputError("tau", tau, "give a finite number of points per nat >= 0; 0 is the best of M")


def selection_probabilities(rewards: ArrayLike, log_ratio: ArrayLike, tau: float) -> Floats:
    """softmax(rewards / tau + log_ratio), shape (answers,). `log_ratio` is log pi_ref(y) - log pi_gen(y).

    tau = 0 is the limit: all mass on the best rewards, shared between equals by exp(log_ratio).
    """
    _check_tau(tau)
    r, w = finite_array("rewards", rewards, 1), finite_array("log_ratio", log_ratio, 1)
    if r.shape != w.shape:
        raise InputError("rewards and log_ratio", (r.shape, w.shape), "give one of each per answer")
    # The best reward is subtracted before dividing: a tiny tau then overflows to -inf, never to inf - inf.
    with np.errstate(over="ignore"):
        scaled = (r - r.max()) / tau if tau > 0 else np.where(r == r.max(), 0.0, -np.inf)
    logits = scaled + w
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def select(rewards: ArrayLike, log_ratio: ArrayLike, tau: float, rng: np.random.Generator) -> int:
    """Index of the drawn answer, by inverting the cumulative distribution at one uniform number of `rng`."""
    cumulative = np.cumsum(selection_probabilities(rewards, log_ratio, tau))
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(cumulative) - 1))


def _potential(scores: Floats, log_ratio: Floats, tau: float) -> float:
    """tau * log sum_j exp(scores_j / tau + log_ratio_j): convex in the scores, its gradient is the selection rule.
    At tau = 0 the largest score."""
    best = float(scores.max())
    if tau == 0:
        return best
    with np.errstate(over="ignore"):
        logits = (scores - best) / tau + log_ratio
    top = float(logits.max())
    return best + tau * (top + math.log(float(np.exp(logits - top).sum())))


def offset_payment(values: ArrayLike, platform: ArrayLike, log_ratio: ArrayLike, tau: float) -> Floats:
    """Expected payment of every advertiser (advertisers,), in points.

    `values[i, j]` is b_i * pctr_i(y_j) 1(a_i in y_j), `platform[j]` the platform's own reward -lambda * s_resp(y_j).
    The draw's probabilities are the gradient of the convex potential P, so an advertiser whose utility is
    P(with it) - P(without it), its contribution to the regularised welfare, gains nothing by misreporting (Rochet); it
    pays what it expects to get less that utility. For values >= 0 that is within [0, expected value]. At tau = 0 it is
    the Vickrey-Clarke-Groves payment over the M answers.
    """
    v, own, w = (
        finite_array("values", values, 2),
        finite_array("platform", platform, 1),
        finite_array("log_ratio", log_ratio, 1),
    )
    if v.shape[1] != len(own) or own.shape != w.shape:
        raise InputError("values, platform, log_ratio", (v.shape, own.shape, w.shape), "give one entry per answer")
    if v.min() < 0:
        raise InputError("values", float(v.min()), "an advertiser's value of an answer is bid * pctr >= 0")
    total = v.sum(axis=0) + own
    expected = v @ selection_probabilities(total, w, tau)
    everyone = _potential(total, w, tau)
    utility = np.array([everyone - _potential(total - row, w, tau) for row in v])
    # The bounds hold exactly; clipping removes rounding only.
    payments: Floats = np.clip(expected - utility, 0.0, expected)
    return payments


def offset_click_price(bid: Micros, payment: float, expected: float) -> Micros:
    """The truthful payment as a price for one click: the bid times the share payment / expected, rounded up to micros
    and never above the bid, so that expected clicks bring the expected payment."""
    if expected <= 0:
        return 0
    return min(bid, math.ceil(bid * Fraction(payment) / Fraction(expected)))


def answer(
    context: Context,
    generator: Generator,
    predict: AnswerPredictor,
    settings: MosaicSettings,
    seed: int,
    *,
    log_ratio: Sequence[float] | None = None,
) -> RivalAnswer:
    """Sample M answers, score them with the pCTR model, draw one and set the click prices of the ads that it shows.

    `log_ratio` is None when the candidates come from the reference policy itself (pi_gen = pi_ref).
    """
    generations = only(generator.generate(context, settings.samples, seed), settings.samples)
    bids = context.bids()
    values = np.zeros((len(bids), settings.samples))
    row = {ad_id: i for i, ad_id in enumerate(bids)}
    for j, generation in enumerate(generations):
        pctr = predict(context, generation.answer)
        for ad_id in generation.answer.shown():
            if ad_id not in row:
                raise InputError("generator", ad_id, "show candidates of this context only")
            if not 0 <= pctr.get(ad_id, -1.0) <= 1:
                raise InputError(
                    f"pctr of ad {ad_id}", pctr.get(ad_id), "predict 0..1 for every ad that an answer shows"
                )
            values[row[ad_id], j] = bids[ad_id] / MICROS_PER_POINT * pctr[ad_id]
    platform = np.array([-settings.lam * s_resp(g.answer, settings.penalty) for g in generations])
    weights = np.zeros(settings.samples) if log_ratio is None else finite_array("log_ratio", log_ratio, 1)
    total = values.sum(axis=0) + platform
    # A stream apart from the generator's: the draw must not be tied to the answers sampled under the same seed.
    drawn = generations[select(total, weights, settings.tau, np.random.default_rng([seed, 1]))]
    shown = drawn.answer.shown()
    if settings.payment == "first_price":
        return RivalAnswer(drawn, {ad_id: bids[ad_id] for ad_id in shown}, settings.samples)
    payments = offset_payment(values, platform, weights, settings.tau) if bids else np.zeros(0)
    expected = values @ selection_probabilities(total, weights, settings.tau)
    prices = {a: offset_click_price(bids[a], float(payments[row[a]]), float(expected[row[a]])) for a in shown}
    return RivalAnswer(drawn, prices, settings.samples)
