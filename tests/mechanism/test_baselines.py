"""Baseline mechanisms: prices never above bids, monotone winning, the stated distributions, determinism by seed."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.baselines import gsp, lera, mosaic, restricted, segment, simple, token
from mechanism.baselines.ranking import Won
from mechanism.errors import InputError
from mechanism.objective import Penalty, reward
from mechanism.statistics import Floats
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Generation, Insertion

POINT = 10_000
IDS = [f"ad{i}" for i in range(6)]
BIDS = st.dictionaries(st.sampled_from(IDS), st.integers(0, 10**9), min_size=1)
WEIGHTS = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(lambda w: dict(zip(IDS, w, strict=True)))
SEEDS = st.integers(0, 2**31)


def context(bids: dict[AdId, int]) -> Context:
    ads = tuple(Candidate(Ad(i, f"Title {i}", "text", "firm"), b) for i, b in bids.items())
    return Context("q1", "a question", ads)


class ShowsAll:
    """A policy that shows a random half of its candidates, or all in a single answer, and records its contexts."""

    def __init__(self) -> None:
        self.seen: list[Context] = []

    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        self.seen.append(context)
        rng = np.random.default_rng(seed)
        ads = [c.ad.id for c in context.candidates]
        picks = [[a for a in ads if samples == 1 or rng.random() < 0.5] for _ in range(samples)]
        return [
            Generation(Answer("", "", tuple(Insertion(a, 0, 0) for a in shown)), (j,), -1.0)
            for j, shown in enumerate(picks)
        ]


# position auction --------------------------------------------------------------------------------------------


@given(BIDS, WEIGHTS, st.integers(1, 4), st.integers(0, 10**6))
def test_gsp_prices_reach_the_reserve_and_no_more_than_the_bid_and_scores_fall(
    bids: dict[AdId, int], pctr: dict[AdId, float], slots: int, reserve: int
) -> None:
    won = gsp.allocate(bids, pctr, gsp.GspSettings(slots, reserve))
    scores = [bids[w.ad_id] * Fraction(pctr[w.ad_id]) for w in won]
    assert len(won) <= slots
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= w.price <= bids[w.ad_id] and isinstance(w.price, int) for w in won)
    # The price is the least bid whose score reaches the reserve, or more.
    assert all(w.price * Fraction(pctr[w.ad_id]) >= reserve for w in won)


@given(BIDS, WEIGHTS)
def test_the_gsp_price_is_the_least_bid_that_keeps_the_slot(bids: dict[AdId, int], pctr: dict[AdId, float]) -> None:
    won = gsp.allocate(bids, pctr, gsp.GspSettings(slots=6))
    for above, below in itertools.pairwise(won):
        weight, threshold = Fraction(pctr[above.ad_id]), bids[below.ad_id] * Fraction(pctr[below.ad_id])
        assert above.price * weight >= threshold > (above.price - 1) * weight


@given(BIDS, WEIGHTS, st.integers(1, 10**9))
def test_a_higher_bid_never_loses_a_slot(bids: dict[AdId, int], pctr: dict[AdId, float], more: int) -> None:
    settings_ = gsp.GspSettings(slots=2)
    for rank, w in enumerate(gsp.allocate(bids, pctr, settings_)):
        raised = gsp.allocate({**bids, w.ad_id: bids[w.ad_id] + more}, pctr, settings_)
        assert w.ad_id in [r.ad_id for r in raised[: rank + 1]]


def test_gsp_charges_the_next_score_over_the_own_pctr() -> None:
    won = gsp.allocate({"a": 900_000, "b": 800_000, "c": 10}, {"a": 0.5, "b": 0.25, "c": 0.0}, gsp.GspSettings(slots=3))
    assert [(w.ad_id, w.price) for w in won] == [("a", 400_000), ("b", 0)]


def test_gsp_shows_fewer_ads_where_scores_are_under_the_reserve() -> None:
    bids, pctr = {"a": 900_000, "b": 800_000, "c": 700_000}, {"a": 0.5, "b": 0.25, "c": 0.1}
    won = gsp.allocate(bids, pctr, gsp.GspSettings(slots=3, reserve=150_000))
    assert [(w.ad_id, w.price) for w in won] == [("a", 400_000), ("b", 600_000)]
    with pytest.raises(InputError, match="reserve"):
        gsp.allocate(bids, pctr, gsp.GspSettings(reserve=-1))


# segment auction ---------------------------------------------------------------------------------------------


@given(BIDS, WEIGHTS, SEEDS, st.integers(0, 10**6))
def test_segment_prices_never_exceed_bids_nor_undercut_the_reserve(
    bids: dict[AdId, int], q: dict[AdId, float], seed: int, reserve: int
) -> None:
    won = segment.allocate(bids, q, segment.SegmentSettings(3, reserve), seed)
    assert len({w.ad_id for w in won}) == len(won) <= 3
    assert all(reserve <= w.price <= bids[w.ad_id] and isinstance(w.price, int) for w in won)
    assert won == segment.allocate(dict(reversed(bids.items())), q, segment.SegmentSettings(3, reserve), seed)


@given(BIDS, WEIGHTS, SEEDS, st.integers(1, 10**9))
def test_under_fixed_noise_winning_is_monotone_and_the_price_is_critical(
    bids: dict[AdId, int], q: dict[AdId, float], seed: int, more: int
) -> None:
    one = segment.SegmentSettings(segments=1)
    for w in segment.allocate(bids, q, one, seed):
        assert segment.allocate({**bids, w.ad_id: bids[w.ad_id] + more}, q, one, seed) == (
            w,
        )  # neither place nor price
        if w.price < bids[w.ad_id]:
            assert segment.allocate({**bids, w.ad_id: w.price + 1}, q, one, seed) == (w,)
        if w.price > 0:
            lower = segment.allocate({**bids, w.ad_id: w.price - 1}, q, one, seed)
            assert [x.ad_id for x in lower] != [w.ad_id]


@given(BIDS, WEIGHTS, SEEDS, st.integers(1, 10**9))
def test_a_higher_bid_never_moves_a_winner_to_a_later_segment(
    bids: dict[AdId, int], q: dict[AdId, float], seed: int, more: int
) -> None:
    two = segment.SegmentSettings(segments=2)
    for place, w in enumerate(segment.allocate(bids, q, two, seed)):
        raised = segment.allocate({**bids, w.ad_id: bids[w.ad_id] + more}, q, two, seed)
        assert w.ad_id in [r.ad_id for r in raised[: place + 1]]


def test_segment_frequencies_are_those_of_q_times_b() -> None:
    bids, q = {"a": 100, "b": 300, "c": 50, "d": 70}, {"a": 0.6, "b": 0.1, "c": 0.9, "d": 0.0}
    expected = {ad_id: q[ad_id] * bids[ad_id] / 135 for ad_id in bids}
    assert sum(expected.values()) == pytest.approx(1)
    n = 6000
    runs = [segment.allocate(bids, q, segment.SegmentSettings(2), seed) for seed in range(n)]
    for ad_id, p in expected.items():
        share = sum(won[0].ad_id == ad_id for won in runs) / n
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / n)
    # Without replacement: after a win of a, b has 30 of the remaining 75.
    after_a = [won[1].ad_id for won in runs if won[0].ad_id == "a"]
    assert after_a.count("b") / len(after_a) == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / len(after_a)))


def test_scores_must_cover_every_candidate_and_be_finite_and_positive() -> None:
    for bad in ({}, {"a": -0.1}, {"a": math.nan}, {"a": math.inf}):
        with pytest.raises(InputError, match="relevance of ad a"):
            segment.allocate({"a": 5}, bad, segment.SegmentSettings(), seed=0)
        with pytest.raises(InputError, match="pctr of ad a"):
            gsp.allocate({"a": 5}, bad, gsp.GspSettings())
    with pytest.raises(InputError, match="slots"):
        gsp.GspSettings(slots=0)
    with pytest.raises(InputError, match="segments"):
        segment.SegmentSettings(segments=0)
    with pytest.raises(InputError, match="candidates"):
        lera.LeraSettings(candidates=1, slots=2)
    with pytest.raises(InputError, match="advertisers"):
        token.TokenSettings(advertisers=0)
    with pytest.raises(InputError, match="slots"):
        simple.highest_bids({"a": 1}, slots=0)
    with pytest.raises(InputError, match="winners"):
        restricted(context({"a": 1}), ["z"])


# one-sided auctions, LERA, token auction ---------------------------------------------------------------------


@given(BIDS, BIDS, WEIGHTS)
def test_the_most_relevant_win_whatever_they_bid(
    bids: dict[AdId, int], others: dict[AdId, int], relevance: dict[AdId, float]
) -> None:
    other_bids = {ad_id: others.get(ad_id, 1) for ad_id in bids}
    won = simple.most_relevant(bids, relevance, 2)
    assert [w.ad_id for w in won] == [w.ad_id for w in simple.most_relevant(other_bids, relevance, 2)]
    assert all(w.price == bids[w.ad_id] for w in won)
    left = [relevance[ad_id] for ad_id in bids if ad_id not in {w.ad_id for w in won}]
    assert max(left, default=0.0) <= min(relevance[w.ad_id] for w in won)


def test_the_highest_bidders_win_whatever_they_offer() -> None:
    assert [w.ad_id for w in simple.highest_bids({"a": 3, "c": 7, "b": 7}, 2)] == ["b", "c"]


def run_lera(
    bids: dict[AdId, int], q: dict[AdId, float], naming: dict[AdId, float], settings_: lera.LeraSettings
) -> tuple[Won, ...]:
    return lera.allocate(bids, lera.shortlist(bids, q, settings_), naming, settings_)


@given(BIDS, WEIGHTS, WEIGHTS, st.integers(1, 2), st.integers(2, 4), st.integers(0, 10**6))
def test_lera_charges_the_least_bid_that_passes_both_stages(
    bids: dict[AdId, int], q: dict[AdId, float], naming: dict[AdId, float], slots: int, candidates: int, reserve: int
) -> None:
    settings_ = lera.LeraSettings(candidates, slots, reserve)
    won = run_lera(bids, q, naming, settings_)
    assert len(won) <= slots
    for w in won:
        assert 0 <= w.price <= bids[w.ad_id]
        # A tie at the exact price may go to the other ad: one micro more wins.
        if w.price < bids[w.ad_id]:
            higher = run_lera({**bids, w.ad_id: w.price + 1}, q, naming, settings_)
            assert w in higher
        if w.price > 0:
            lower = run_lera({**bids, w.ad_id: w.price - 1}, q, naming, settings_)
            assert w.ad_id not in {x.ad_id for x in lower}


def test_lera_filters_by_retrieval_and_ranks_by_naming() -> None:
    bids = {"a": 100, "b": 100, "c": 100}
    won = run_lera(bids, {"a": 0.9, "b": 0.8, "c": 0.1}, {"a": 0.2, "b": 0.6, "c": 0.9}, lera.LeraSettings(2, 1))
    assert won == (Won("b", 34),)  # c is filtered out; the naming of a asks 100 * 0.2 / 0.6, retrieval 100 * 0.1 / 0.8


@given(BIDS, WEIGHTS, st.integers(1, 4), st.integers(1, 10**9))
def test_a_higher_bid_raises_an_advertisers_share_of_the_mixture(
    bids: dict[AdId, int], q: dict[AdId, float], advertisers: int, more: int
) -> None:
    settings_ = token.TokenSettings(advertisers)
    weights = token.mixture(bids, q, settings_)
    assert len(weights) <= advertisers
    assert not weights or math.isclose(sum(weights.values()), 1.0)
    for ad_id, weight in weights.items():
        raised = token.mixture({**bids, ad_id: bids[ad_id] + more}, q, settings_)
        assert raised[ad_id] >= weight - 1e-12


# MOSAIC ------------------------------------------------------------------------------------------------------

REWARDS = st.lists(st.floats(-300, 300), min_size=1, max_size=20)


@given(REWARDS, st.floats(1e-3, 100), st.floats(-50, 50))
def test_selection_is_the_softmax_and_ignores_a_common_shift(rewards: list[float], tau: float, shift: float) -> None:
    log_ratio = np.linspace(-1, 1, len(rewards))
    p = mosaic.selection_probabilities(rewards, log_ratio, tau)
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        p, mosaic.selection_probabilities(np.array(rewards) + shift, log_ratio + shift, tau), atol=1e-6
    )
    i, j = int(np.argmax(p)), 0
    if p[j] > 1e-200:
        odds = (rewards[i] - rewards[j]) / tau + log_ratio[i] - log_ratio[j]
        assert math.log(p[i] / p[j]) == pytest.approx(odds, abs=1e-6)


def test_the_limits_of_tau_are_the_best_of_m_and_the_reference() -> None:
    rewards, ratio = [1.0, 5.0, 4.9, 5.0], [0.0, 0.0, 3.0, math.log(3)]
    best = mosaic.selection_probabilities(rewards, ratio, tau=0)
    np.testing.assert_allclose(best, [0, 0.25, 0, 0.75])
    np.testing.assert_allclose(mosaic.selection_probabilities(rewards, ratio, tau=1e-9), best, atol=1e-9)
    with np.errstate(all="raise"):
        np.testing.assert_allclose(mosaic.selection_probabilities(rewards, ratio, tau=5e-324), best)
    reference = np.exp(ratio) / np.exp(ratio).sum()
    np.testing.assert_allclose(mosaic.selection_probabilities(rewards, ratio, tau=1e9), reference, atol=1e-6)


def test_drawn_answers_follow_the_selection_probabilities_and_the_seed() -> None:
    rewards, ratio = [0.0, 1.0, 2.0], [0.0, 0.5, 0.0]
    p = mosaic.selection_probabilities(rewards, ratio, tau=1.0)
    rng = np.random.default_rng(0)
    drawn = np.bincount([mosaic.select(rewards, ratio, 1.0, rng) for _ in range(5000)], minlength=3) / 5000
    assert np.all(np.abs(drawn - p) <= 4 * np.sqrt(p * (1 - p) / 5000))
    again = [[mosaic.select(rewards, ratio, 1.0, np.random.default_rng(s)) for s in range(20)] for _ in range(2)]
    assert again[0] == again[1]


def instance(seed: int, n: int = 3, m: int = 6) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    values = rng.exponential(10, (n, m)) * (rng.random((n, m)) < 0.5)
    return values, -rng.exponential(10, m), rng.normal(0, 1, m)


TAUS = st.sampled_from([0.0, 1e-3, 0.5, 5.0, 50.0])


@given(SEEDS, TAUS)
@settings(deadline=None)
def test_offset_payments_lie_between_nothing_and_the_expected_value(seed: int, tau: float) -> None:
    values, platform, ratio = instance(seed)
    payments = mosaic.offset_payment(values, platform, ratio, tau)
    expected = values @ mosaic.selection_probabilities(values.sum(0) + platform, ratio, tau)
    assert np.all(payments >= 0)
    assert np.all(payments <= expected)
    absent = mosaic.offset_payment(np.vstack([values, np.zeros(6)]), platform, ratio, tau)
    assert absent[-1] == 0.0


@given(SEEDS, TAUS, st.floats(0, 4))
@settings(deadline=None)
def test_offset_payments_make_misreporting_useless(seed: int, tau: float, factor: float) -> None:
    values, platform, ratio = instance(seed)

    def utility(reported: Floats) -> float:
        p = mosaic.selection_probabilities(reported.sum(0) + platform, ratio, tau)
        return float(values[0] @ p - mosaic.offset_payment(reported, platform, ratio, tau)[0])

    lie = values.copy()
    lie[0] = factor * values[0] if seed % 2 else np.random.default_rng(seed + 1).exponential(10, 6)
    assert utility(lie) <= utility(values) + 1e-6


def test_at_tau_zero_the_offset_payment_is_vickrey_clarke_groves() -> None:
    payments = mosaic.offset_payment([[10.0, 0.0], [0.0, 7.0]], [0.0, 0.0], [0.0, 0.0], tau=0)
    np.testing.assert_allclose(payments, [7.0, 0.0])


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_offset_click_prices_never_exceed_the_bid(bid: int, payment: float, expected: float) -> None:
    assert 0 <= mosaic.offset_click_price(bid, payment, expected) <= bid


def test_mosaic_spends_m_generations_and_charges_within_the_bids() -> None:
    auction = context({i: (k + 1) * 10 * POINT for k, i in enumerate(IDS)})

    def predict(context: Context, answer: Answer) -> dict[AdId, float]:
        return {a: 0.3 if len(answer.shown()) <= 2 else 0.01 for a in answer.shown()}

    first = mosaic.answer(auction, ShowsAll(), predict, mosaic.MosaicSettings(tau=0.0), seed=5)
    assert first == mosaic.answer(auction, ShowsAll(), predict, mosaic.MosaicSettings(tau=0.0), seed=5)
    assert first.generations == 20
    assert first.click_prices == {a: auction.bids()[a] for a in first.generation.answer.shown()}
    offset = mosaic.answer(auction, ShowsAll(), predict, mosaic.MosaicSettings(tau=0.0, payment="offset"), seed=5)
    assert offset.generation == first.generation
    assert all(p <= first.click_prices[a] for a, p in offset.click_prices.items())


def test_mosaic_at_tau_zero_shows_the_answer_of_the_highest_reward() -> None:
    auction = context({i: (3 * k + 1) * 20 * POINT for k, i in enumerate(IDS)})

    def predict(context: Context, answer: Answer) -> dict[AdId, float]:
        return {a: 0.5 / len(answer.shown()) for a in answer.shown()}

    rewards = [
        reward(g.answer, auction.bids(), predict(auction, g.answer), Penalty(), lam=0.7)
        for g in ShowsAll().generate(auction, 20, seed=2)
    ]
    result = mosaic.answer(auction, ShowsAll(), predict, mosaic.MosaicSettings(tau=0.0, lam=0.7), seed=2)
    assert result.generation.token_ids == (int(np.argmax(rewards)),)
    assert max(rewards) > sorted(rewards)[-2]


def test_broken_contracts_of_mosaic_are_input_errors() -> None:
    auction = context({"a": POINT})
    with pytest.raises(InputError, match="generator"):
        mosaic.answer(auction, _Short(), lambda _c, _a: {}, mosaic.MosaicSettings(), seed=0)
    with pytest.raises(InputError, match="pctr of ad a"):
        mosaic.answer(auction, ShowsAll(), lambda _c, _a: {}, mosaic.MosaicSettings(), seed=0)
    with pytest.raises(InputError, match="tau"):
        mosaic.MosaicSettings(tau=-1.0)
    with pytest.raises(InputError, match="per answer"):
        mosaic.selection_probabilities([1.0], [1.0, 2.0], 1.0)
    with pytest.raises(InputError, match="values"):
        mosaic.offset_payment([[-1.0]], [0.0], [0.0], 1.0)


class _Short:
    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        return []
