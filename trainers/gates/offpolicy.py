"""Off-policy estimates: what a target policy would have earned, from answers and clicks of another policy.

Inverse propensity scoring, its self-normalised form (SNIPS; Swaminathan & Joachims 2015) and the doubly robust estimate
(Dudik, Langford & Li 2011), with bootstrap intervals over contexts. Where the log cannot support an estimate, the
result is a refusal with its reason. Pure numpy; the weights come from `trainers.gates.evidence`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, finite_array, percentile_interval, resampled_means
from trainers.config.gates import OffPolicySettings


@dataclass(frozen=True, slots=True)
class Logged:
    """N logged answers, every array of shape (N,).

    `contexts`: the context of each answer (any labels). `values`: its value to the user or to the platform.
    `weights`: target probability over logging probability, >= 0. `unsupported`: see `inference.scoring.Compared`.
    For dr also `predicted`, a model's forecast of `values`, and `direct`, the mean of the same model's forecasts for
    fresh answers of the target to the context. A model that was fitted to these answers has learned their noise, which
    the interval does not show. `disagreement`: share of the answers whose logged probability the logging model does
    not reproduce. InputError for arrays of different lengths, numbers that are not finite, and negative weights.
    """

    contexts: ArrayLike
    values: ArrayLike
    weights: ArrayLike
    unsupported: ArrayLike | None = None
    predicted: ArrayLike | None = None
    direct: ArrayLike | None = None
    disagreement: float = 0.0

    def column(self, name: str) -> Floats:
        """Return one array, checked.

        Raises:
            InputError: if its length, a number or a weight is invalid.
        """
        array = finite_array(name, getattr(self, name), 1)
        if len(array) != len(np.asarray(self.contexts)):
            raise InputError(name, len(array), f"give one number for each of {len(np.asarray(self.contexts))} answers")
        if name == "weights" and (array < 0).any():
            raise InputError(name, float(array.min()), "a ratio of probabilities is not negative")
        return array


@dataclass(frozen=True, slots=True)
class Estimate:
    """An off-policy estimate in the unit of the values, per query.

    `value`: of the target; `logged`: mean of the log; `gain`: value minus logged, paired by context and so narrower
    than the two apart. `effective_sample`: Kish's, in contexts. `mean_weight` and `max_weight` are before
    clipping; the first has expectation one. `clipped`: share of the answers whose weight was cut; `clipping_shift`:
    the change of the estimate by that. `unsupported`: share of the target's answers that the logging policy could not
    write; `disagreement`: see Logged. `refusal`: the reason why the figures may not be used, None where they may.
    """

    method: str
    value: Interval
    logged: Interval
    gain: Interval
    contexts: int
    answers: int
    effective_sample: float
    mean_weight: float
    max_weight: float
    clipped: float
    clipping_shift: float
    unsupported: float
    disagreement: float
    refusal: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values; an unbounded end of an interval becomes None."""
        intervals = {name: getattr(self, name).to_dict() for name in ("value", "logged", "gain")}
        return {**asdict(self), **intervals}


def kish(weights: ArrayLike) -> float:
    """Return Kish's effective sample size (sum w)^2 / sum w^2, in equally weighted contexts."""
    w = finite_array("weights", weights, 1)
    squares = float(w @ w)
    return float(w.sum() ** 2 / squares) if squares > 0 else 0.0


def estimate(log: Logged, settings: OffPolicySettings, seed: int) -> Estimate:
    """Estimate the target's mean value per query, under `settings`; same seed, same interval.

    With w the weights, r the values, q the forecasts: ips is mean(w r), unbiased where the log supports the target;
    snips is mean(w r) / mean(w), of bias O(1/n) and less variance, unchanged by a constant factor on all weights; dr is
    mean(q_target + w (r - q)), unbiased if either w or q is right. Contexts count equally, answers to one are averaged.

    Clipping at c replaces w by min(w, c). Its bias is -E[(w - c)+ r] for ips, so values >= 0 are underestimated, and
    -E[(w - c)+ (r - q)] for dr, which is small where q is good; `clipping_shift` estimates it from the same answers.
    Where support is missing, ips omits that share of the target's value, snips describes only the target's other
    answers, and dr relies on the forecasts for the missing ones.
    """
    raw, values = log.column("weights"), log.column("values")
    weights = raw if settings.clip is None else np.minimum(raw, settings.clip)
    group = np.unique(np.asarray(log.contexts), return_inverse=True)[1].reshape(-1)
    table = _table(log, settings, weights, values, group)
    unclipped = _table(log, settings, raw, values, group)
    n = table.shape[1]
    mean_w = _by_context(weights, group)
    lost = float(_by_context(log.column("unsupported"), group).mean()) if log.unsupported is not None else 0.0
    ratio, before = _ratio(table), _ratio(unclipped)
    if ratio is None or before is None:
        value = gain = Interval(math.nan, -math.inf, math.inf)
    else:
        value = _interval(np.vstack([table[:2], np.zeros(n)]), settings, seed)
        gain = _interval(table, settings, seed)
    found = Estimate(
        settings.method,
        value,
        _interval(np.vstack([-table[2], np.ones(n), np.zeros(n)]), settings, seed),
        gain,
        n,
        len(values),
        kish(mean_w),
        float(raw.mean()),
        float(raw.max()),
        float((raw > weights).mean()),
        ratio - before if ratio is not None and before is not None else 0.0,
        lost,
        log.disagreement,
    )
    return replace(found, refusal=_refusal(found, settings))


def _refusal(found: Estimate, settings: OffPolicySettings) -> str | None:
    """Return the first reason for which the figures cannot support a decision."""
    if found.disagreement > settings.max_disagreement:
        return (
            f"{found.disagreement:.1%} of the logged log-probabilities are not those of the logging model (more than "
            f"{settings.max_disagreement:.1%}): give the model, prompt and sampling settings that wrote the log"
        )
    if found.effective_sample < settings.min_effective_sample:
        return (
            f"effective sample of {found.effective_sample:.1f} of {found.contexts} contexts is below "
            f"{settings.min_effective_sample:g}: collect a longer log, or evaluate a model nearer to the serving one"
        )
    if found.unsupported > settings.max_unsupported:
        return (
            f"{found.unsupported:.1%} of the target's answers could never have been logged (more than "
            f"{settings.max_unsupported:.1%}): serve with less truncation (top-p, top-k), or evaluate with as much"
        )
    if abs(found.mean_weight - 1.0) > settings.max_weight_error:
        return (
            f"the weights have mean {found.mean_weight:.2f} in place of 1 ({settings.max_weight_error:g} off at most): "
            "the log misses what the target writes, or its propensities are not those of the logging model"
        )
    return None


def _by_context(values_N: Floats, group_N: NDArray[np.intp]) -> Floats:
    """Return the means over the answers of each context, shape (contexts,)."""
    return np.asarray(np.bincount(group_N, values_N) / np.bincount(group_N))


def _table(
    log: Logged, settings: OffPolicySettings, weights_N: Floats, values_N: Floats, group_N: NDArray[np.intp]
) -> Floats:
    """Return rows A, B, D by context: the estimate is mean(A) / mean(B); adding mean(D) gives the gain over the log.

    Raises:
        InputError: if dr lacks its forecasts.
    """
    if settings.method == "dr":
        if log.predicted is None or log.direct is None:
            raise InputError("predicted and direct", None, "dr needs a model's forecasts: give both, or choose snips")
        top = log.column("direct") + weights_N * (values_N - log.column("predicted"))
    else:
        top = weights_N * values_N
    bottom = weights_N if settings.method == "snips" else np.ones_like(weights_N)
    return np.stack([_by_context(row, group_N) for row in (top, bottom, -values_N)])


def _ratio(table: Floats) -> float | None:
    top, bottom, _ = table.mean(axis=1)
    return float(top / bottom) if bottom > 0 else None


def _interval(table_3C: Floats, settings: OffPolicySettings, seed: int) -> Interval:
    """Return mean(A) / mean(B) + mean(D) with its interval by bootstrap over contexts.

    The interval is made of percentiles of the resampled estimates, or (studentised) of their distances from the
    estimate in standard errors, each resample's own, which follows skewed weights better. A resample without any weight
    leaves both ends unbounded.
    """
    a, b, d = table_3C
    rows = np.stack([a, b, d, a * a, b * b, d * d, a * b, a * d, b * d])
    centre, error = (float(x[0]) for x in _moments(rows.mean(axis=1)[None], len(a)))
    drawn, errors = _moments(resampled_means(rows, seed, settings.draws), len(a))
    if settings.interval == "percentile":
        low = percentile_interval(centre, np.where(np.isnan(drawn), -np.inf, drawn), settings.level).lo
        high = percentile_interval(centre, np.where(np.isnan(drawn), np.inf, drawn), settings.level).hi
        return Interval(centre, low, high)
    if error == 0.0:
        return Interval(centre, centre, centre)
    distance = drawn - centre
    # Equal up to rounding counts as equal, whatever the error of a resample without variance.
    distance[np.abs(distance) < 1e-12 * max(1.0, abs(centre))] = 0.0
    far = np.where(distance < 0, -np.inf, np.inf)
    t = np.divide(distance, errors, out=np.where(distance == 0, 0.0, far), where=errors > 0)
    below = percentile_interval(0.0, np.where(np.isnan(t), np.inf, t), settings.level).hi
    above = percentile_interval(0.0, np.where(np.isnan(t), -np.inf, t), settings.level).lo
    return Interval(centre, centre - below * error, centre - above * error)


def _moments(means_R9: Floats, contexts: int) -> tuple[Floats, Floats]:
    """Return estimate and standard error (delta method), shape (R,), from means of A, B, D and their products."""
    a, b, d, aa, bb, dd, ab, ad, bd = means_R9.T
    usable = np.where(b > 0, b, np.nan)
    ratio = a / usable
    spread = (aa - 2 * ratio * ab + ratio**2 * bb) / usable**2 + 2 * (ad - ratio * bd) / usable + dd - d * d
    return ratio + d, np.sqrt(np.maximum(spread, 0.0) / contexts)
