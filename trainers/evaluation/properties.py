"""The properties that the theory promises, measured on a trained policy: what `mechanism.properties` judges.

Sampling is left to `sweeps`, the verdicts to `mechanism.properties`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.policy import Policy
from mechanism.baselines import BaselineAnswer
from mechanism.properties import continuity, monotonicity
from mechanism.types import Context
from trainers.evaluation import sweeps
from trainers.evaluation.report import Allocation, Band, ContinuityCurve, Property
from trainers.irpo.phases import finished
from trainers.irpo.session import Session
from trainers.pretraining.new_titles import shown_under_new_titles

SWEEP_ANSWERS = 4
GAMES = 8


@dataclass(frozen=True, slots=True)
class MeasuredProperties:
    """The properties by name, with the curves that the report draws."""

    properties: dict[str, Property]
    allocation: Allocation | None
    continuity_curve: ContinuityCurve | None


def measure_properties(
    session: Session,
    own: Sequence[BaselineAnswer],
    contexts: Sequence[Context],
    ours: Policy,
    seed: int,
    report: Callable[[str], None],
) -> MeasuredProperties:
    """Measure the properties of the policy `ours`, whose `own` answers to `contexts` are at hand.

    `report` takes progress lines.
    """
    config = session.config.evaluation
    properties: dict[str, Mapping[str, Any]] = {
        "individual_rationality": sweeps.charges(contexts, own, session.truth, seed).to_dict()
    }
    some = contexts[: config.swept_contexts]
    allocation: Allocation | None = None
    if some:
        ads = sweeps.swept_ads(some, session.truth, seed)
        bands: dict[str, Band] = {}
        for epoch in range(session.config.epochs + 1):
            if epoch > 0 and not finished(session, "policy", epoch):
                break
            report(f"bid sweep, epoch {epoch}")
            swept = sweeps.sweep(session.policy(epoch), some, ads, session.truth, 1, seed)
            bands[str(epoch)] = _band(swept, seed)
        allocation = Allocation(bids=sweeps.LEVELS, epochs=bands)
        report("bid sweep of the chosen policy")
        swept = sweeps.sweep(ours, some, ads, session.truth, SWEEP_ANSWERS, seed + 1)
        properties["monotonicity"] = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).to_dict()
        properties["value_maximiser_ic"] = sweeps.value_maximisers(swept, seed)
        report("new titles")
        properties["new_titles"] = shown_under_new_titles(ours, some, session.truth, seed).to_dict()
        report("play between advertisers")
        properties["exploitability"] = sweeps.utility_maximisers(ours, some[:GAMES], session.truth, SWEEP_ANSWERS, seed)
    curve: ContinuityCurve | None = None
    if config.continuity_answers:
        context = contexts[0]
        ad = sweeps.swept_ads([context], session.truth, seed)[0]
        means, errors = sweeps.continuity_samples(
            ours,
            context,
            ad,
            session.truth,
            config.continuity_answers,
            seed,
            lambda done, total: report(f"continuity: bid {done} of {total}"),
        )
        bids = tuple(float(b) for b in range(1, 101))
        properties["continuity"] = continuity(means, errors, bids, seed).to_dict()
        curve = ContinuityCurve(bids=bids, mean=tuple(means.tolist()), error=tuple(errors.tolist()))
    return MeasuredProperties({name: Property.model_validate(p) for name, p in properties.items()}, allocation, curve)


def _band(swept: sweeps.Sweep, seed: int) -> Band:
    means = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).means
    return Band(mean=tuple(m.mean for m in means), lo=tuple(m.lo for m in means), hi=tuple(m.hi for m in means))
