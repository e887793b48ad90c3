"""Measurement of the properties that the theory promises, on a trained policy, by sweeps of bids.

Equal seeds at all levels of a sweep (common random numbers) remove most of the sampling noise from the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.policy import Policy
from mechanism.baselines import BaselineAnswer
from mechanism.payments import click_payments
from mechanism.prompt import MICROS_PER_POINT
from mechanism.properties import (
    Charge,
    IndividualRationality,
    curve_from_samples,
    exploitability,
    individual_rationality,
    no_regret_play,
    value_maximiser_ic,
)
from mechanism.types import AdId, Context
from simulator.clicks import ClickModel

LEVELS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
"""Bid levels of a sweep, in points."""
GAME_BIDS = (5, 20, 40, 60, 80, 100)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Expected clicks of the swept ad, shape (levels, contexts, answers)."""

    clicks_LCA: NDArray[np.float64]


def swept_ads(contexts: Sequence[Context], truth: ClickModel, seed: int) -> list[AdId]:
    """Choose for each context one of its five most relevant candidates, at random: ads that a bid can decide on."""
    rng = np.random.default_rng([seed, 21])
    chosen = []
    for context in contexts:
        fit = truth.relevance(context, [c.ad for c in context.candidates])
        top = np.argsort(-fit, kind="stable")[:5]
        chosen.append(context.candidates[int(top[rng.integers(len(top))])].ad.id)
    return chosen


def sweep(
    policy: Policy, contexts: Sequence[Context], ads: Sequence[AdId], truth: ClickModel, answers: int, seed: int
) -> Sweep:
    """Sweep the bid of each context's ad over LEVELS, the other bids fixed."""
    table = np.zeros((len(LEVELS), len(contexts), answers))
    for k, level in enumerate(LEVELS):
        bid = level * MICROS_PER_POINT
        versions = [c.with_bids({ad: bid}) for c, ad in zip(contexts, ads, strict=True)]
        for q, own in enumerate(policy.generate(versions, answers, seed)):
            for m, g in enumerate(own):
                table[k, q, m] = truth.probabilities(versions[q], g.answer).get(ads[q], 0.0)
    return Sweep(table)


def continuity_samples(
    policy: Policy,
    context: Context,
    ad: AdId,
    truth: ClickModel,
    answers: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample the allocation of one ad on one query at bids 1 to 100: (means, standard errors), shape (100,) each."""
    rows = []
    for bid in range(1, 101):
        version = context.with_bids({ad: bid * MICROS_PER_POINT})
        own = policy.generate([version], answers, seed + bid)[0]
        rows.append([truth.probabilities(version, g.answer).get(ad, 0.0) for g in own])
        progress(bid, 100)
    means, errors = curve_from_samples(np.array(rows))
    return np.asarray(means), np.asarray(errors)


def value_maximisers(swept: Sweep, seed: int) -> dict[str, Any]:
    """Measure the regret of truthful value maximisers; half the answers choose the deviation, half score it."""
    half = swept.clicks_LCA.shape[2] // 2
    first = swept.clicks_LCA[:, :, :half].mean(2).T
    second = swept.clicks_LCA[:, :, half:].mean(2).T
    rng = np.random.default_rng([seed, 22])
    values = rng.integers(10, 101, size=len(first)).astype(float)
    return value_maximiser_ic(
        first, [float(b) for b in LEVELS], values, np.ones(len(first)), seed, holdout=second
    ).to_dict()


def utility_maximisers(
    policy: Policy, contexts: Sequence[Context], truth: ClickModel, answers: int, seed: int
) -> dict[str, Any]:
    """Let the two most relevant advertisers of each context play no-regret; return the play's exploitability."""
    plays = []
    rng = np.random.default_rng([seed, 23])
    for context in contexts:
        fit = truth.relevance(context, [c.ad for c in context.candidates])
        pair = [context.candidates[int(i)].ad.id for i in np.argsort(-fit, kind="stable")[:2]]

        def allocate(bids_PN: NDArray[np.float64], context: Context = context, pair: list[AdId] = pair) -> Any:
            versions = [
                replace(context.with_bids({ad: int(b) * MICROS_PER_POINT for ad, b in zip(pair, row, strict=True)}))
                for row in bids_PN
            ]
            itctr = np.zeros(bids_PN.shape)
            for p, own in enumerate(policy.generate(versions, answers, seed)):
                for g in own:
                    shown = truth.probabilities(versions[p], g.answer)
                    itctr[p] += [shown.get(ad, 0.0) / answers for ad in pair]
            return itctr

        values = rng.integers(30, 101, size=2).astype(float)
        plays.append(no_regret_play(allocate, values, [float(b) for b in GAME_BIDS]))
    return exploitability(plays, seed).to_dict()


def charges(
    contexts: Sequence[Context], answers: Sequence[BaselineAnswer], truth: ClickModel, seed: int
) -> IndividualRationality:
    """Draw clicks once in every auction, charge them, and check that no advertiser pays too much."""
    rng = np.random.default_rng([seed, 24])
    made: list[Charge] = []
    for context, played in zip(contexts, answers, strict=True):
        answer, bids = played.generation.answer, context.bids()
        clicks = truth.click(truth.probabilities(context, answer), rng)
        paid = click_payments(answer, bids, clicks)
        made += [
            Charge(context.id, ad, bids[ad], int(hit), paid.get(ad, 0), value=bids[ad]) for ad, hit in clicks.items()
        ]
    return individual_rationality(made)
