"""Auctions between utility maximisers that shade their bids: what each payment rule earns at its equilibrium.

In every game the candidates with the highest relevance times value are strategic, the others bid the lowest bid and
count neither as revenue nor as welfare. Values come from the same seed for every rule, so that rules are compared on
the same games.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mechanism.baselines import BaselineAnswer
from mechanism.prompt import MICROS_PER_POINT
from mechanism.properties import (
    EquilibriumComparison,
    Payment,
    Play,
    as_table,
    bid_profiles,
    compare_equilibria,
    first_price,
    no_regret_play,
    threshold_price,
)
from mechanism.statistics import Floats
from mechanism.types import AdId, Context
from trainers.evaluation.sweeps import AnsweringPolicy, ClickTruth, expected_clicks, exposure_of

OURS = "llm_auction, first price"
OURS_THRESHOLD = "llm_auction, threshold price"
BIDS = (5, 20, 40, 60, 80, 100)
"""The grid of bids, in points; values are drawn between its third and its last."""
STRATEGIC = 3
"""Bidders of a game: with two slots, the third sets the second's price."""
ROUNDS = 1000
DEGREE = 3
"""Degree of the polynomial in all bids that is fitted to a game's clicks."""

PlayRival = Callable[[Sequence[Context], int], Sequence[BaselineAnswer]]
"""A rival mechanism: contexts and a seed -> one answer each, with its prices per click."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One context with its strategic `ads` and their `values` (points); all others bid the lowest bid."""

    context: Context
    ads: tuple[AdId, ...]
    values: tuple[float, ...]

    def versions(self) -> list[Context]:
        """Return the context under every bid profile, in the order of `bid_profiles`."""
        return [
            self.context.with_bids({ad: int(b) * MICROS_PER_POINT for ad, b in zip(self.ads, row, strict=True)})
            for row in bid_profiles(BIDS, len(self.ads))
        ]


def contests(contexts: Sequence[Context], truth: ClickTruth, seed: int) -> Iterator[Contest]:
    """Draw values for all candidates and make the STRATEGIC with the highest relevance times value compete."""
    rng = np.random.default_rng([seed, 23])
    for context in contexts:
        drawn = rng.integers(BIDS[2], BIDS[-1] + 1, size=len(context.candidates)).astype(float)
        worth = truth.relevance(context, [c.ad for c in context.candidates]) * drawn
        strongest = [int(i) for i in np.argsort(-worth, kind="stable")[:STRATEGIC]]
        lowest = {c.ad.id: BIDS[0] * MICROS_PER_POINT for c in context.candidates}
        yield Contest(
            context.with_bids(lowest),
            tuple(context.candidates[i].ad.id for i in strongest),
            tuple(float(drawn[i]) for i in strongest),
        )


def equilibrium_table(
    policy: AnsweringPolicy,
    contexts: Sequence[Context],
    truth: ClickTruth,
    answers: int,
    seed: int,
    rivals: Mapping[str, PlayRival] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EquilibriumComparison:
    """Play every context under the policy at first price (Eq. 7) and at threshold prices, and under each rival.

    `answers` are sampled at every bid profile; `rivals` maps a name, such as "gsp", to the mechanism that plays with
    its own allocation and prices. `progress` takes games done and all. The first rule is ours at first price.
    """
    plays: dict[str, list[Play]] = {name: [] for name in (OURS, OURS_THRESHOLD, *(rivals or {}))}
    for number, contest in enumerate(contests(contexts, truth, seed)):
        own = _policy_clicks(policy, contest, truth, answers, seed + number)
        for name, pay in ((OURS, first_price), (OURS_THRESHOLD, threshold_price)):
            plays[name].append(_play(contest, own, pay))
        for name, rival in (rivals or {}).items():
            clicks, payments = _rival_tables(rival, contest, truth, answers, seed + number)
            plays[name].append(_play(contest, clicks, _decided(payments)))
        progress(number + 1, len(contexts))
    return compare_equilibria(plays, seed)


def _decided(payments_PN: Floats) -> Payment:
    """Return the payment rule of a mechanism that decides its prices with its allocation."""
    return lambda clicks, bids: as_table(payments_PN, len(bids))


def _play(contest: Contest, clicks_PN: Floats, pay: Payment) -> Play:
    return no_regret_play(lambda profiles: clicks_PN, contest.values, BIDS, ROUNDS, pay)


def _policy_clicks(policy: AnsweringPolicy, contest: Contest, truth: ClickTruth, answers: int, seed: int) -> Floats:
    """Return the policy's itctr of the strategic ads at every bid profile, shape (profiles, bidders)."""
    versions = contest.versions()
    shape = (len(contest.ads), len(versions), answers)
    ctr, shown, exposure = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for p, own in enumerate(policy.generate(versions, answers, seed)):
        for m, generation in enumerate(own):
            clicked = truth.probabilities(versions[p], generation.answer)
            for i, ad in enumerate(contest.ads):
                ctr[i, p, m], shown[i, p, m] = clicked.get(ad, 0.0), ad in clicked
                exposure[i, p, m] = exposure_of(ad, generation)
    # Profiles take the place of levels: a bidder's rate is its own, over all profiles.
    means = [
        expected_clicks(c[:, None], s[:, None], e[:, None]).mean(axis=(1, 2))
        for c, s, e in zip(ctr, shown, exposure, strict=True)
    ]
    return _fitted(np.stack(means, axis=1), len(contest.ads))


def _fitted(clicks_PN: Floats, bidders: int) -> Floats:
    """Fit a polynomial of the bids to each bidder's clicks, and return its values, at least 0.

    A few answers a profile leave noise that bidders would exploit as if it were allocation. The policy's curves have no
    steps (`continuity` tests that), so neighbouring profiles can share their answers.
    """
    scaled = bid_profiles(BIDS, bidders) / BIDS[-1]
    powers = [p for p in itertools.product(range(DEGREE + 1), repeat=bidders) if sum(p) <= DEGREE]
    terms_PT = np.stack([np.prod(scaled**p, axis=1) for p in powers], axis=1)
    return np.asarray(terms_PT @ np.linalg.lstsq(terms_PT, clicks_PN, rcond=None)[0]).clip(0.0)


def _rival_tables(
    rival: PlayRival, contest: Contest, truth: ClickTruth, answers: int, seed: int
) -> tuple[Floats, Floats]:
    """Return a rival's itctr and expected payments (points), both (profiles, bidders)."""
    versions = contest.versions()
    clicks = np.zeros((len(versions), len(contest.ads)))
    paid = np.zeros_like(clicks)
    for m in range(answers):
        for p, played in enumerate(rival(versions, seed + 1000 * m)):
            clicked = truth.probabilities(versions[p], played.generation.answer)
            for i, ad in enumerate(contest.ads):
                share = clicked.get(ad, 0.0) / answers
                clicks[p, i] += share
                paid[p, i] += share * played.click_prices.get(ad, 0) / MICROS_PER_POINT
    return clicks, paid
