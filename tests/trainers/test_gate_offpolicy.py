"""Off-policy estimates on bandits whose truth is known in closed form.

In a balanced log every action stands as often as the logging policy's probability says, so that a mean over the log is
the expectation and an unbiased estimator is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mechanism.errors import InputError
from trainers.config.gates import OffPolicySettings
from trainers.gates.offpolicy import Estimate, Logged, estimate, kish

Floats = NDArray[np.float64]
FEW = OffPolicySettings(draws=20, min_effective_sample=1e-9, max_weight_error=1e9)


@dataclass(frozen=True)
class Bandit:
    """Probabilities and values by (context, action)."""

    counts: NDArray[np.int64]
    target: Floats
    values: Floats

    @property
    def logging(self) -> Floats:
        return np.asarray(self.counts / self.counts.sum(1, keepdims=True))

    @property
    def weights(self) -> Floats:
        return np.asarray(self.target / self.logging)

    def truth(self) -> float:
        return float((self.target * self.values).sum(1).mean())

    def balanced(self, weights: Floats, forecasts: Floats | None = None) -> Logged:
        rows, columns = np.nonzero(self.counts)
        times = self.counts[rows, columns]

        def spread(table: Floats) -> Floats:
            return np.asarray(np.repeat(table[rows, columns], times))

        known: dict[str, Any] = {}
        if forecasts is not None:
            direct = (self.target * forecasts).sum(1)
            known = {"predicted": spread(forecasts), "direct": np.repeat(direct[rows], times)}
        return Logged(np.repeat(rows, times), spread(self.values), spread(weights), **known)


@st.composite
def bandits(draw: st.DrawFn) -> Bandit:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = rng.integers(1, 6, size=shape)
    target = rng.dirichlet(np.full(shape[1], draw(st.sampled_from([0.2, 1.0, 5.0]))), size=shape[0])
    return Bandit(counts, target, rng.normal(3.0, 10.0, size=shape))


def value_of(log: Logged, method: str, **changes: Any) -> float:
    return estimate(log, FEW.model_copy(update={"method": method, **changes}), 0).value.mean


@given(bandits())
def test_ips_is_unbiased(bandit: Bandit) -> None:
    assert value_of(bandit.balanced(bandit.weights), "ips") == pytest.approx(bandit.truth(), abs=1e-9)


@given(bandits(), st.floats(1e-3, 1e3))
def test_snips_does_not_notice_a_factor_on_all_weights(bandit: Bandit, factor: float) -> None:
    plain = value_of(bandit.balanced(bandit.weights), "snips")
    assert plain == pytest.approx(bandit.truth(), abs=1e-9)
    assert value_of(bandit.balanced(bandit.weights * factor), "snips") == pytest.approx(plain, rel=1e-9, abs=1e-9)
    scaled = value_of(bandit.balanced(bandit.weights * factor), "ips")
    assert scaled == pytest.approx(factor * bandit.truth(), rel=1e-6, abs=1e-9)


@given(bandits(), st.integers(0, 2**32))
def test_dr_is_unbiased_if_either_part_is_right(bandit: Bandit, seed: int) -> None:
    rng = np.random.default_rng(seed)
    nonsense = rng.normal(0, 50, size=bandit.values.shape)
    right_weights = bandit.balanced(bandit.weights, nonsense)
    assert value_of(right_weights, "dr") == pytest.approx(bandit.truth(), abs=1e-7)
    right_forecasts = bandit.balanced(rng.exponential(5.0, size=bandit.values.shape), bandit.values)
    assert value_of(right_forecasts, "dr") == pytest.approx(bandit.truth(), abs=1e-7)
    assert value_of(right_forecasts, "dr", clip=0.5) == pytest.approx(bandit.truth(), abs=1e-7)


def test_dr_is_wrong_where_both_parts_are() -> None:
    bandit = Bandit(np.array([[1, 1]]), np.array([[0.9, 0.1]]), np.array([[10.0, 0.0]]))
    both_wrong = bandit.balanced(np.ones((1, 2)), np.array([[0.0, 8.0]]))
    assert abs(value_of(both_wrong, "dr") - bandit.truth()) > 1


@given(bandits(), st.floats(0.1, 3.0))
def test_clipping_is_biased_by_what_it_cuts_and_says_so(bandit: Bandit, clip: float) -> None:
    worth = replace(bandit, values=np.abs(bandit.values))
    found = estimate(worth.balanced(worth.weights), FEW.model_copy(update={"method": "ips", "clip": clip}), 0)
    cut = np.maximum(worth.weights - clip, 0.0)
    bias = -float((worth.logging * cut * worth.values).sum(1).mean())
    assert found.value.mean - worth.truth() == pytest.approx(bias, abs=1e-9)
    assert found.clipping_shift == pytest.approx(bias, abs=1e-9)
    assert found.value.mean <= worth.truth() + 1e-9
    assert found.max_weight == pytest.approx(worth.weights.max())
    assert (found.clipped > 0) == bool((worth.weights > clip).any())


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3), st.floats(1e-3, 1e3))
def test_effective_sample_lies_between_one_and_all_and_has_no_scale(weights: list[float], factor: float) -> None:
    found = kish(weights)
    assert 1 - 1e-9 <= found <= len(weights) + 1e-9
    assert kish([w * factor for w in weights]) == pytest.approx(found, rel=1e-9)
    assert kish([factor] * len(weights)) == pytest.approx(len(weights))


def drawn(contexts: int, seed: int, sharpness: float = 1.0) -> tuple[Logged, float]:
    """A log of random contexts with two kinds of users, skewed values and imperfect forecasts, and its truth."""
    rng = np.random.default_rng(seed)
    logging = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    target = logging**sharpness * np.array([0.5, 1.0, 2.5]) ** sharpness
    target /= target.sum(1, keepdims=True)
    chance = np.array([[0.1, 0.3, 0.5], [0.4, 0.05, 0.3]])
    forecasts = 60.0 * np.clip(chance + np.array([0.1, -0.05, 0.05]), 0, 1)
    kind = rng.integers(2, size=contexts)
    chosen = (rng.random(contexts)[:, None] > logging[kind].cumsum(1)).sum(1)
    bids = rng.exponential(60.0, size=contexts)
    values = bids * (rng.random(contexts) < chance[kind, chosen])
    fresh = (rng.random(contexts)[:, None] > target[kind].cumsum(1)).sum(1)
    weights = (target / logging)[kind, chosen]
    log = Logged(np.arange(contexts), values, weights, None, forecasts[kind, chosen], forecasts[kind, fresh])
    return log, 60.0 * float((target * chance).sum(1).mean())


@pytest.mark.parametrize("interval", ["studentised", "percentile"])
@pytest.mark.parametrize("method", ["ips", "snips", "dr"])
def test_intervals_hold_the_truth_as_often_as_they_say(method: str, interval: str) -> None:
    settings = OffPolicySettings.model_validate({"method": method, "interval": interval, "draws": 300, "level": 0.9})
    trials = 300
    held = 0
    for seed in range(trials):
        log, truth = drawn(250, seed)
        found = estimate(log, settings, seed)
        assert found.refusal is None
        held += found.value.lo <= truth <= found.value.hi
    # four standard errors of a share of 0.9
    assert abs(held / trials - 0.9) < 4 * math.sqrt(0.9 * 0.1 / trials)


def test_the_gain_over_the_log_is_paired() -> None:
    log, _ = drawn(400, 0, sharpness=1.0)
    found = estimate(log, FEW.model_copy(update={"method": "snips", "draws": 400}), 1)
    assert found.gain.mean == pytest.approx(found.value.mean - found.logged.mean)
    assert found.logged.mean == pytest.approx(np.mean(np.asarray(log.values)))
    same = estimate(replace(log, weights=np.ones(400)), FEW.model_copy(update={"method": "ips"}), 1)
    assert same.gain.ends == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert same.value.hi - same.value.lo > 1


@pytest.mark.parametrize("method", ["ips", "snips", "dr"])
def test_answers_to_one_context_do_not_count_as_independent(method: str) -> None:
    log, _ = drawn(120, 3)
    names = ("contexts", "values", "weights", "predicted", "direct")
    doubled = Logged(**{name: np.repeat(getattr(log, name), 4) for name in names})
    settings = FEW.model_copy(update={"method": method})
    once, often = estimate(log, settings, 5), estimate(doubled, settings, 5)
    assert often.value.ends == pytest.approx(once.value.ends)
    assert often.effective_sample == pytest.approx(once.effective_sample)
    assert (once.answers, often.answers, often.contexts) == (120, 480, 120)


def refused(log: Logged, **changes: Any) -> Estimate:
    return estimate(log, OffPolicySettings(draws=50).model_copy(update={"method": "snips", **changes}), 0)


def test_too_thin_a_log_is_refused_not_passed() -> None:
    log, _ = drawn(400, 0)
    found = refused(log, min_effective_sample=150.0)
    assert found.refusal is None
    assert 150 < found.effective_sample < 400
    low = refused(log, min_effective_sample=found.effective_sample + 1)
    assert "effective sample" in str(low.refusal)
    # the figures are the same: it is the log that does not carry them
    assert low.value == found.value
    heavy = np.asarray(log.weights).copy()
    heavy[0] = 1e5
    assert "effective sample of 1." in str(refused(replace(log, weights=heavy)).refusal)


def test_missing_support_and_wrong_propensities_are_refused() -> None:
    log, _ = drawn(400, 0)
    weights = np.asarray(log.weights)
    assert "never have been logged" in str(refused(replace(log, unsupported=np.full(400, 0.06))).refusal)
    assert refused(replace(log, unsupported=np.full(400, 0.04))).refusal is None
    for factor in (0.3, 1.7):
        assert "mean" in str(refused(replace(log, weights=weights * factor)).refusal)
    assert "not those of the logging model" in str(refused(replace(log, disagreement=0.02)).refusal)
    nothing = refused(replace(log, weights=np.zeros(400)))
    assert nothing.refusal is not None
    assert nothing.to_dict()["value"] == {"mean": None, "lo": None, "hi": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": [1.0, -0.1, 1.0]},
        {"weights": [1.0, math.inf, 1.0]},
        {"values": [1.0, math.nan, 2.0]},
        {"values": [1.0, 2.0]},
        {"unsupported": [0.0]},
        {"direct": None},
        {"predicted": [1.0]},
    ],
)
def test_what_does_not_fit_together_is_an_error(changes: dict[str, Any]) -> None:
    whole = Logged(["a", "b", "c"], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], None, [1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    estimate(whole, FEW, 0)
    with pytest.raises(InputError):
        estimate(replace(whole, **changes), FEW, 0)
