"""Clicks that have not come yet: F is recovered from right-truncated delays, and reckoning with it removes the bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.markers import parse
from mechanism.types import Ad, Candidate, Context
from trainers.config import RewardConfig
from trainers.logs.answers import MIN_CLICKS, NO_DELAY, estimate_delays
from trainers.reward.training import Shown, click_loss, fit

MEAN_DELAY_S = 600.0


def truncated(clicks: int, watch_s: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponential delays of clicks on answers watched for a uniform time, as far as they were seen."""
    rng = np.random.default_rng(seed)
    delays, watched = rng.exponential(MEAN_DELAY_S, clicks), rng.uniform(0, watch_s, clicks)
    seen = delays <= watched
    return delays[seen], watched[seen]


def test_the_distribution_is_recovered_although_long_delays_are_seen_less_often() -> None:
    longest = 3600.0
    delays, watched = truncated(20_000, longest, 0)
    found = estimate_delays(delays, watched)
    at = np.array([60.0, 300.0, 600.0, 1200.0, 2400.0])
    truth = (1 - np.exp(-at / MEAN_DELAY_S)) / (1 - np.exp(-longest / MEAN_DELAY_S))
    assert found.seen(at) == pytest.approx(truth, abs=0.03)
    naive = np.array([(delays <= a).mean() for a in at])
    assert (naive > truth + 0.02).sum() >= 3, "what was seen alone would call clicks quicker than they are"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=MIN_CLICKS, max_size=80),
    st.lists(st.floats(0, 200), min_size=1, max_size=20),
)
def test_shares_rise_from_above_zero_to_one(pairs: list[tuple[int, int]], at: list[float]) -> None:
    delays = np.array([min(p) for p in pairs], float)
    watched = np.array([max(p) for p in pairs], float)
    found = estimate_delays(delays, watched)
    assert (np.diff(found.shares_K) >= 0).all()
    assert found.shares_K[0] > 0, "a click that came had a chance to come"
    assert found.shares_K[-1] == pytest.approx(1.0)
    shares = found.seen(sorted(at))
    assert ((shares >= 0) & (shares <= 1 + 1e-12)).all()
    assert (np.diff(shares) >= 0).all()


def test_of_few_clicks_nothing_is_made_out() -> None:
    assert estimate_delays([1.0] * (MIN_CLICKS - 1), [2.0] * (MIN_CLICKS - 1)) is NO_DELAY
    assert estimate_delays([], []) is NO_DELAY
    assert NO_DELAY.seen([0.0, 5.0]).tolist() == [1.0, 1.0]


def test_delays_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="between 0 and the time"):
        estimate_delays([5.0], [3.0])
    with pytest.raises(InputError, match="one for each of 2"):
        estimate_delays([1.0, 2.0], [3.0])


@given(st.floats(-6, 6), st.floats(0.01, 1.0), st.booleans())
def test_the_loss_is_the_likelihood_of_an_observed_click(logit: float, seen: float, clicked: bool) -> None:
    p = seen / (1 + np.exp(-logit))
    expected = -np.log(p) + np.log(seen) if clicked else -np.log1p(-p)
    found = click_loss(*(torch.tensor([v], dtype=torch.float64) for v in (logit, float(clicked), seen)))
    assert float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


RATES = {"a0": 0.1, "a1": 0.3, "a2": 0.5, "a3": 0.7}
ADS = [Ad(ad, f"Offer {ad}", "something to buy", "somebody") for ad in RATES]
CONFIG = RewardConfig(passes=12, learning_rate=3e-3, user_width=4, ad_width=8, hidden=(16,))


def encode(texts: Sequence[str]) -> Any:
    """Vectors that say nothing: an ad is known by its id alone."""
    return np.zeros((len(texts), 384), np.float32)


@pytest.fixture(scope="module")
def young() -> tuple[list[Shown], Any, Any]:
    """Answers with one ad of known click rate, half of them so young that three clicks in four have not come yet;
    what share can be there, and the truth."""
    rng = np.random.default_rng(0)
    shown: list[Shown] = []
    seen = np.where(rng.random(4000) < 0.5, 0.25, 1.0)
    truth = []
    for n, share in enumerate(seen):
        ad = ADS[rng.integers(len(ADS))]
        context = Context(f"c{n}", "What to buy?", (Candidate(ad, 10_000),))
        clicks = {ad.id: bool(rng.random() < share * RATES[ad.id])}
        shown.append((context, parse(f"Take @{ad.title}@[{ad.id}].", [ad]), clicks))
        truth.append(RATES[ad.id])
    return shown, seen, np.array(truth)


def test_the_correction_removes_the_bias_of_clicks_that_have_not_come(young: tuple[list[Shown], Any, Any]) -> None:
    shown, seen, truth = young

    def forecasts(seen: Any) -> Any:
        model, _ = fit(shown, CONFIG, encode, 1, seen)
        return np.array([p for own in model.probabilities([(c, a) for c, a, _ in shown]) for p in own.values()])

    corrected, naive = forecasts(seen), forecasts(None)
    assert naive.mean() == pytest.approx(0.625 * truth.mean(), rel=0.1), "five clicks in eight are there"
    assert corrected.mean() == pytest.approx(truth.mean(), rel=0.1)
    for rate in RATES.values():
        assert corrected[truth == rate].mean() == pytest.approx(rate, abs=0.07)


def test_a_log_in_which_everything_is_seen_is_fitted_as_ever(young: tuple[list[Shown], Any, Any]) -> None:
    some = young[0][:300]
    one, quality = fit(some, CONFIG, encode, 1)
    other, again = fit(some, CONFIG, encode, 1, np.ones(len(some)))
    assert quality == again
    for name, tensor in one.network.state_dict().items():
        assert (tensor == other.network.state_dict()[name]).all()
