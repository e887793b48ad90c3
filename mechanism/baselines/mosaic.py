"""MOSAIC (arXiv 2405.05905): sample many candidate answers, draw one in proportion to the optimal policy's density.

Of answers y_1 … y_M sampled from pi_gen, with r(y) the total reward of all advertisers and the platform, answer j is
drawn with probability proportional to pi_ref(y_j) / pi_gen(y_j) * exp(r(y_j) / tau). A query costs M generations.
Rewards are in points and log-probabilities in nats, so tau is in points per nat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mechanism.baselines import AnswerPredictor, BaselineAnswer, Generator, generate
from mechanism.errors import InputError
from mechanism.objective import Penalty, s_resp
from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import Floats, finite_array
from mechanism.types import Context, Micros


@dataclass(frozen=True, slots=True)
class MosaicSettings:
    """Settings of MOSAIC.

    `samples` is M, `tau` the weight of the reference policy (0: the best of M); `lam` and `penalty` are those of Eq. 2
    of arXiv 2512.10551. With `payment` "first_price" a click costs the bid, as in the generative auction, so that
    tables compare allocations; with "offset" it costs MOSAIC's truthful payment, which is never more.
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
    """Return softmax(rewards / tau + log_ratio) (answers,), the probability of drawing each answer.

    `rewards` (answers,) are in points, `log_ratio` (answers,) is log pi_ref(y) - log pi_gen(y) in nats. tau = 0 is the
    limit: the best rewards share all probability in proportion to exp(log_ratio).

    Raises:
        InputError: if the arrays differ in shape.
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
    """Return the index of the drawn answer: the cumulative distribution inverted at one uniform number of `rng`."""
    cumulative = np.cumsum(selection_probabilities(rewards, log_ratio, tau))
    return int(min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(cumulative) - 1))


def _potential(scores: Floats, log_ratio: Floats, tau: float) -> float:
    """Return tau * log sum_j exp(scores_j / tau + log_ratio_j), or the largest score at tau = 0.

    It is convex in the scores, and its gradient is the selection rule.
    """
    best = float(scores.max())
    if tau == 0:
        return best
    with np.errstate(over="ignore"):
        logits = (scores - best) / tau + log_ratio
    top = float(logits.max())
    return best + tau * (top + math.log(float(np.exp(logits - top).sum())))


def offset_payment(values: ArrayLike, platform: ArrayLike, log_ratio: ArrayLike, tau: float) -> Floats:
    """Return the expected truthful payment of every advertiser (advertisers,), in points.

    `values[i, j]` (advertisers, answers) is b_i * pctr_i(y_j) 1(a_i in y_j), `platform[j]` (answers,) the platform's
    own reward -lambda * s_resp(y_j), `log_ratio` (answers,) as in `selection_probabilities`.

    The selection probabilities are the gradient of a convex potential P. An advertiser whose utility is
    P(with it) - P(without it), its contribution to the regularised welfare, therefore gains nothing by misreporting
    (Rochet's theorem); its payment is its expected value less that utility. For values >= 0 the payment lies within
    0..expected value. At tau = 0 it is the Vickrey-Clarke-Groves payment over the M answers.

    Raises:
        InputError: if the shapes do not match or a value is negative.
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
    # The bounds hold exactly; clipping only removes rounding errors.
    payments: Floats = np.clip(expected - utility, 0.0, expected)
    return payments


def offset_click_price(bid: Micros, payment: float, expected: float) -> Micros:
    """Return the truthful payment as the price of one click, in micros.

    The price is bid * payment / expected, rounded up and never above the bid, so that the expected clicks bring the
    expected payment. `payment` and `expected` (value) are in points.
    """
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
) -> BaselineAnswer:
    """Sample M answers, score them with the pCTR model, draw one and set the click prices of the ads that it shows.

    `log_ratio` is None if the answers come from the reference policy itself (pi_gen = pi_ref).

    Raises:
        InputError: if the generator shows an ad that is not a candidate, or `predict` returns no probability for one.
    """
    generations = generate(generator, context, settings.samples, seed)
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
    # Another random stream than the generator's: the draw must not correlate with the answers sampled under this seed.
    drawn = generations[select(total, weights, settings.tau, np.random.default_rng([seed, 1]))]
    shown = drawn.answer.shown()
    if settings.payment == "first_price":
        return BaselineAnswer(drawn, {ad_id: bids[ad_id] for ad_id in shown}, settings.samples)
    payments = offset_payment(values, platform, weights, settings.tau) if bids else np.zeros(0)
    expected = values @ selection_probabilities(total, weights, settings.tau)
    prices = {a: offset_click_price(bids[a], float(payments[row[a]]), float(expected[row[a]])) for a in shown}
    return BaselineAnswer(drawn, prices, settings.samples)
