"""Properties measured on made-up policies: one that satisfies them, and for each one that was built to violate it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mechanism.baselines import BaselineAnswer
from mechanism.baselines.gsp import GspSettings, allocate
from mechanism.markers import parse, render_marker
from mechanism.prompt import MICROS_PER_POINT
from mechanism.properties import monotonicity
from mechanism.statistics import Floats
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Generation, MarkerChoice
from simulator.clicks import ClickModel
from trainers.evaluation import equilibria, properties, sweeps

ADS = tuple(Ad(f"A{k}", f"Brand {k}", "", f"advertiser {k}") for k in range(4))
CTR = {"A0": 0.5, "A1": 0.45, "A2": 0.4, "A3": 0.05}

Weights = Callable[[Floats], Floats]
"""Bids in points (ads,) -> weight of naming each ad (ads,)."""


def contexts(count: int, seed: int = 0) -> list[Context]:
    rng = np.random.default_rng(seed)
    return [
        Context(
            id=f"q{k}",
            query=f"question {k}",
            candidates=tuple(Candidate(ad, int(rng.integers(1, 101)) * MICROS_PER_POINT) for ad in ADS),
        )
        for k in range(count)
    ]


@dataclass(frozen=True)
class OneAdPolicy:
    """Shows one ad or none, with probabilities proportional to the weights of the bids and 0.3 for none."""

    weights: Weights
    exact: bool = True

    def generate(self, contexts: Sequence[Context], samples: int, seed: int) -> list[list[Generation]]:
        rng = np.random.default_rng(seed)
        return [self._answers(context, samples, rng) for context in contexts]

    def shares(self, context: Context) -> Floats:
        weights = self.weights(np.array([c.bid / MICROS_PER_POINT for c in context.candidates]))
        return np.asarray(weights / weights.sum())

    def _answers(self, context: Context, samples: int, rng: np.random.Generator) -> list[Generation]:
        shares = self.shares(context)
        found = []
        for shows, at in zip(rng.random(samples) > 0.3, rng.choice(len(ADS), samples, p=shares), strict=True):
            answer = parse(f"Try {render_marker(ADS[at])}." if shows else "Nothing fits.", ADS)
            choice = MarkerChoice(ADS[at].id, {ad.id: float(s) for ad, s in zip(ADS, shares, strict=True)}, self.exact)
            found.append(Generation(answer, (1,), -1.0, (choice,) if shows else ()))
        return found


@dataclass(frozen=True)
class FixedTruth:
    """Click rates and relevance that depend on the ad alone."""

    def probabilities(self, context: Context, answer: Answer) -> dict[AdId, float]:
        return {ad: CTR[ad] for ad in answer.shown()}

    def relevance(self, context: Context, ads: list[Ad]) -> Floats:
        return np.array([CTR[ad.id] for ad in ads])


TRUTH = FixedTruth()
smooth = OneAdPolicy(lambda bids: np.exp(bids / 40))
blind = OneAdPolicy(lambda bids: np.ones(len(bids)))
stepped = OneAdPolicy(lambda bids: np.where(bids == bids.max(), 1.0, 0.0))
perverse = OneAdPolicy(lambda bids: np.exp(-bids / 25))
"""Shading raises clicks."""


def quiet(done: int, total: int) -> None:
    """Take progress."""


def test_expected_clicks_are_unbiased_and_vary_less_than_whether_the_ad_is_shown() -> None:
    asked = [contexts(1)[0].with_bids({"A0": 50 * MICROS_PER_POINT})]
    exact, shown = (
        sweeps.sweep(policy, asked, ["A0"], TRUTH, 4000, 0, (50, 60)).clicks_LCA[0, 0]
        for policy in (smooth, replace(smooth, exact=False))
    )
    itctr = 0.7 * CTR["A0"] * float(smooth.shares(asked[0])[0])
    assert exact.mean() == pytest.approx(itctr, abs=0.004)
    assert shown.mean() == pytest.approx(itctr, abs=0.02)
    assert exact.std() < 0.5 * shown.std()


def test_an_insertion_without_a_propensity_counts_as_shown() -> None:
    answer = parse(f"Try {render_marker(ADS[0])}.", ADS)
    generation = Generation(answer, (1,), -1.0)
    assert sweeps.exposure_of("A0", generation) == 1.0
    assert sweeps.exposure_of("A1", generation) == 0.0


def test_propensities_count_up_to_the_marker_that_names_the_ad() -> None:
    answer = parse(f"Try {render_marker(ADS[0])} or {render_marker(ADS[1])}.", ADS)
    choices = (MarkerChoice("A0", {"A0": 0.75, "A1": 0.25}), MarkerChoice("A1", {"A1": 0.5, "A2": 0.5}))
    generation = Generation(answer, (1,), -1.0, choices)
    assert [sweeps.exposure_of(ad.id, generation) for ad in ADS[:3]] == [0.75, 0.75, 0.5]


def test_contested_ads_rank_by_relevance_times_bid() -> None:
    bids = {"A0": 10, "A1": 40, "A2": 30, "A3": 100}
    context = contexts(1)[0].with_bids({ad: b * MICROS_PER_POINT for ad, b in bids.items()})
    assert sweeps.contested_ads([context], TRUTH) == [("A1", "A2")]


@pytest.mark.parametrize(
    ("policy", "finding"),
    [(smooth, "continuous"), (blind, "vacuous"), (stepped, "jump"), (perverse, "vacuous")],
    ids=["smooth", "blind", "stepped", "perverse"],
)
def test_continuity_holds_for_the_smooth_policy_alone(policy: OneAdPolicy, finding: str) -> None:
    result = properties.continuity_of(policy, contexts(30), TRUTH, 0, quiet)
    assert result.finding == finding
    assert result.curves == 60


@pytest.mark.parametrize(
    ("policy", "holds"), [(smooth, True), (blind, False), (perverse, False)], ids=["smooth", "blind", "perverse"]
)
def test_monotonicity_asks_for_a_rise(policy: OneAdPolicy, holds: bool) -> None:
    asked = contexts(60)
    swept = sweeps.sweep(policy, asked, sweeps.swept_ads(asked, TRUTH, 0), TRUTH, 4, 0)
    assert monotonicity(swept.clicks_LCA.mean(2), swept.levels, 0).holds is holds


@pytest.mark.parametrize(("policy", "holds"), [(smooth, True), (perverse, False)], ids=["smooth", "perverse"])
def test_value_maximisers_of_every_target_bid_value_over_target_unless_shading_raises_clicks(
    policy: OneAdPolicy, holds: bool
) -> None:
    asked = contexts(60)
    result = properties.value_maximisers(sweeps.sweep(policy, asked, ["A0"] * 60, TRUTH, 8, 0), 0)
    assert result.holds is holds
    assert [tau for tau, _ in result.by_target] == list(properties.TARGETS)


class FixedClicks(ClickModel):
    def probabilities(self, context: Context, answer: Answer) -> dict[AdId, float]:
        return TRUTH.probabilities(context, answer)


def test_clicks_are_charged_by_the_payment_rule_and_no_shaded_bid_pays_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = contexts(20)
    own = [BaselineAnswer(g[0], c.bids(), 1) for c, g in zip(asked, smooth.generate(asked, 1, 0), strict=True)]
    result = properties.rationality_of_clicks(asked, own, FixedClicks(), 0)
    assert result.holds
    assert result.clicks > 50
    assert result.valued == result.charges

    def overcharging(answer: Answer, bids: dict[AdId, int], clicks: dict[AdId, bool]) -> dict[AdId, int]:
        return {ad: 2 * bids[ad] for ad, hit in clicks.items() if hit}

    monkeypatch.setattr(properties, "click_payments", overcharging)
    result = properties.rationality_of_clicks(asked, own, FixedClicks(), 0)
    assert result.violations == result.clicks
    assert not result.holds


def second_price(contexts: Sequence[Context], seed: int) -> list[BaselineAnswer]:
    """Play a position auction with one slot, whose winner is always written in."""
    answers = []
    for context in contexts:
        won = allocate(context.bids(), CTR, GspSettings(slots=1))[0]
        answer = parse(f"Try @Brand {won.ad_id[1]}@[{won.ad_id}].", ADS)
        answers.append(BaselineAnswer(Generation(answer, (1,), -1.0), {won.ad_id: won.price}, 1))
    return answers


def test_rules_are_compared_at_the_bids_that_bidders_end_at() -> None:
    asked = contexts(4)
    table = equilibria.equilibrium_table(smooth, asked, TRUTH, 2, 0, {"gsp": second_price})
    assert set(table.rules) == {equilibria.OURS, equilibria.OURS_THRESHOLD, "gsp"}
    ours, truthful, gsp = (table.rules[name] for name in table.rules)
    assert table.holds
    assert ours.shading.hi < 0.7
    assert ours.shading.hi < truthful.shading.lo
    assert ours.revenue.mean < 0.75 * ours.truthful_revenue.mean
    # The winner of a second-price auction pays less than its value, and welfare is the winner's.
    assert gsp.revenue.mean < gsp.welfare.mean
    assert gsp.welfare.mean > ours.welfare.mean


def test_a_game_recovers_the_allocation_from_two_answers_a_profile() -> None:
    asked = contexts(3)
    expected = []
    for contest in equilibria.contests(asked, TRUTH, 0):
        near = {
            ad: max(b for b in equilibria.BIDS if b <= v) for ad, v in zip(contest.ads, contest.values, strict=True)
        }
        truthful = contest.context.with_bids({ad: bid * MICROS_PER_POINT for ad, bid in near.items()})
        shares = dict(zip(truthful.bids(), smooth.shares(truthful), strict=True))
        expected.append(sum(0.7 * CTR[ad] * shares[ad] * bid for ad, bid in near.items()))
    table = equilibria.equilibrium_table(smooth, asked, TRUTH, 2, 0)
    assert table.rules[equilibria.OURS].truthful_revenue.mean == pytest.approx(np.mean(expected), rel=0.1)


def test_games_are_between_the_strongest_candidates_and_all_others_bid_the_lowest() -> None:
    contest = next(equilibria.contests(contexts(1), TRUTH, 0))
    assert set(contest.ads) == {"A0", "A1", "A2"}
    assert set(contest.context.bids().values()) == {equilibria.BIDS[0] * MICROS_PER_POINT}
    versions = contest.versions()
    assert len(versions) == len(equilibria.BIDS) ** 3
    assert versions[1].bids()[contest.ads[2]] == equilibria.BIDS[1] * MICROS_PER_POINT
    assert versions[-1].bids()["A3"] == equilibria.BIDS[0] * MICROS_PER_POINT
