"""The properties that the theory promises, measured on a trained policy: what `mechanism.properties` judges.

Sampling is left to `sweeps` and `equilibria`, the verdicts to `mechanism.properties`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from inference.policy import Policy
from mechanism.baselines import BaselineAnswer
from mechanism.payments import click_payments
from mechanism.properties import (
    Charge,
    Continuity,
    EquilibriumComparison,
    IndividualRationality,
    ValueMaximiserTargets,
    continuity,
    individual_rationality,
    monotonicity,
    value_maximiser_targets,
)
from mechanism.types import Context
from simulator.clicks import ClickModel
from trainers.evaluation import sweeps
from trainers.evaluation.equilibria import OURS, PlayRival, equilibrium_table
from trainers.evaluation.report import Allocation, Band, ContinuityCurve, Property
from trainers.irpo.phases import finished
from trainers.irpo.session import Session
from trainers.pretraining.new_titles import shown_under_new_titles

SWEEP_ANSWERS: Final = 4
CONTEXTS_PER_GAME: Final = 8
"""Swept contexts for each game: a game takes as many answers as the sweeps of about ten contexts."""
GAME_ANSWERS: Final = 2
"""Answers at each bid profile; a game averages them over the profiles that its bidders mix."""
CLICK_DRAWS: Final = 20
"""Times that the reader's clicks on an answer are drawn and charged."""
TARGETS: Final = (0.8, 1.0, 1.25, 1.5, 2.0)
"""Return targets tau of value maximisers."""
VALUES: Final = (20, 80)
"""Values of a click, in points: v / tau stays within the bids of the sweep for every target."""


@dataclass(frozen=True, slots=True)
class MeasuredProperties:
    """The properties by name, the payment rules at equilibrium, and the curves that the report draws."""

    properties: dict[str, Property]
    equilibrium: EquilibriumComparison | None
    allocation: Allocation | None
    continuity_curve: ContinuityCurve | None


def measure_properties(
    session: Session,
    own: Sequence[BaselineAnswer],
    contexts: Sequence[Context],
    ours: Policy,
    seed: int,
    report: Callable[[str], None],
    rivals: Mapping[str, PlayRival] | None = None,
) -> MeasuredProperties:
    """Measure the properties of the policy `ours`, whose `own` answers to `contexts` are at hand.

    `rivals` are played at equilibrium beside ours (see `equilibria`); `report` takes progress lines.
    """
    config, truth = session.config.evaluation, session.truth
    found = {"individual_rationality": rationality_of_clicks(contexts, own, truth, seed).to_dict()}
    allocation: Allocation | None = None
    rules: EquilibriumComparison | None = None
    if some := contexts[: config.swept_contexts]:
        ads = sweeps.swept_ads(some, truth, seed)
        allocation = _allocation(session, some, ads, seed, report)
        report("bid sweep of the chosen policy")
        swept = sweeps.sweep(ours, some, ads, truth, SWEEP_ANSWERS, seed + 1)
        found["monotonicity"] = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).to_dict()
        found["value_maximiser_ic"] = value_maximisers(swept, seed).to_dict()
        report("new titles")
        found["new_titles"] = shown_under_new_titles(ours, some, truth, seed).to_dict()
        report("play between advertisers")
        rules = equilibrium_table(
            ours,
            some[: max(1, len(some) // CONTEXTS_PER_GAME)],
            truth,
            GAME_ANSWERS,
            seed,
            rivals,
            lambda done, total: report(f"play between advertisers: game {done} of {total}"),
        )
        found["exploitability"] = rules.rules[OURS].exploitability.to_dict()
    curve: ContinuityCurve | None = None
    if asked := contexts[: config.continuity_queries]:
        tested = continuity_of(ours, asked, truth, seed, lambda k, n: report(f"continuity: bid {k} of {n}"))
        found["continuity"] = tested.to_dict()
        curve = ContinuityCurve(bids=tested.bids, mean=tested.curve, error=tested.error)
    return MeasuredProperties(
        {name: Property.model_validate(figures) for name, figures in found.items()}, rules, allocation, curve
    )


def rationality_of_clicks(
    contexts: Sequence[Context], answers: Sequence[BaselineAnswer], truth: ClickModel, seed: int
) -> IndividualRationality:
    """Draw the clicks on every answer, charge them by the mechanism's payment rule, and compare with the values.

    The advertisers shade: each bids a share of its value between a third and all of it.
    """
    rng = np.random.default_rng([seed, 24])
    charges: list[Charge] = []
    for context, played in zip(contexts, answers, strict=True):
        answer, bids = played.generation.answer, context.bids()
        values = {ad: round(bid / rng.uniform(1 / 3, 1)) for ad, bid in bids.items()}
        clickable = truth.probabilities(context, answer)
        for draw in range(CLICK_DRAWS):
            clicks = truth.click(clickable, rng)
            paid = click_payments(answer, bids, clicks)
            charges += [
                Charge(f"{context.id}/{draw}", ad, bids[ad], int(hit), paid.get(ad, 0), values[ad])
                for ad, hit in clicks.items()
            ]
    return individual_rationality(charges)


def value_maximisers(swept: sweeps.Sweep, seed: int) -> ValueMaximiserTargets:
    """Measure the regret of bidding v / tau; half of the answers choose the deviation, half score it."""
    half = swept.clicks_LCA.shape[2] // 2
    # Estimates of rare clicks may be slightly negative.
    chooses = np.maximum(0.0, swept.clicks_LCA[:, :, :half].mean(2).T)
    scores = np.maximum(0.0, swept.clicks_LCA[:, :, half:].mean(2).T)
    values = np.random.default_rng([seed, 22]).integers(VALUES[0], VALUES[1] + 1, size=len(scores))
    return value_maximiser_targets(chooses, swept.levels, values, TARGETS, seed, holdout=scores)


def continuity_of(
    policy: sweeps.AnsweringPolicy,
    contexts: Sequence[Context],
    truth: sweeps.ClickTruth,
    seed: int,
    progress: Callable[[int, int], None],
) -> Continuity:
    """Sweep the rank-1 and rank-2 ads of every context, one at a time, and test the curves for steps."""
    contested = sweeps.contested_ads(contexts, truth)
    pairs = [(context, ad) for context, ads in zip(contexts, contested, strict=True) for ad in ads]
    swept = sweeps.sweep(
        policy,
        [context for context, _ in pairs],
        [ad for _, ad in pairs],
        truth,
        SWEEP_ANSWERS,
        seed + 2,
        sweeps.FINE_LEVELS,
        progress,
    )
    curves_CLA = swept.clicks_LCA.transpose(1, 0, 2)
    return continuity(curves_CLA.reshape(len(contexts), -1, *curves_CLA.shape[1:]), swept.levels, seed)


def _allocation(
    session: Session, contexts: Sequence[Context], ads: Sequence[str], seed: int, report: Callable[[str], None]
) -> Allocation:
    """Sweep the policy of every finished epoch, with one answer a bid."""
    bands: dict[str, Band] = {}
    for epoch in range(session.config.epochs + 1):
        if epoch > 0 and not finished(session, "policy", epoch):
            break
        report(f"bid sweep, epoch {epoch}")
        swept = sweeps.sweep(session.policy(epoch), contexts, ads, session.truth, 1, seed)
        means = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).means
        bands[str(epoch)] = Band(
            mean=tuple(m.mean for m in means), lo=tuple(m.lo for m in means), hi=tuple(m.hi for m in means)
        )
    return Allocation(bids=sweeps.LEVELS, epochs=bands)
