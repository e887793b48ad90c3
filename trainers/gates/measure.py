"""Measurement of a trained model against the serving one for the gates, from the held-out part of a log alone.

Off-policy estimates from the serving model's answers, the click predictor on clicks that nothing was fitted to, fresh
answers of both models to held-out queries, and a sweep of bids; in addition a simulated world, where one is configured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler
from mechanism.markers import render_marker
from mechanism.objective import Penalty, value
from mechanism.properties import Monotonicity, monotonicity
from mechanism.statistics import Floats, difference_interval
from mechanism.types import Ad, AdId, Context, Generation
from simulator.clicks import ClickModel
from trainers.artifacts.sampled import Sampled
from trainers.config import GateSettings, WorldConfig
from trainers.gates.clicks import predicted_clicks, predictor_figures
from trainers.gates.decision import Figures, PairedGain
from trainers.gates.evidence import gather, join
from trainers.gates.offpolicy import Estimate, estimate
from trainers.irpo.worlds import ContextSource, build_world
from trainers.logs.answers import LoggedAnswer
from trainers.reward.model import ClickPredictor
from trainers.reward.quality import answer_qualities

BLOCKS = 6
"""Parts into which the compared queries are split; the models answer each part in turn, so that a machine that slows
down slows both."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Quantiles of the log's bids over which a bid is swept."""
SWEPT_FROM = 5
"""A swept ad is one of this many candidates nearest to the query: ads that a bid can decide on."""


@dataclass(frozen=True, slots=True)
class Models:
    """The serving model and the candidate, each with the click predictor that it learned from.

    `digests` are those that the serving model's answers are logged under; its predictor is None where it is gone.
    """

    serving: Policy
    digests: frozenset[str]
    candidate: Policy
    predictor: ClickPredictor
    serving_predictor: ClickPredictor | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out answers, the share of their clicks that the log can hold, and which are newer than the serving model."""

    answers: Sequence[LoggedAnswer]
    seen_N: Floats
    newest: Sequence[bool]


def measure(
    models: Models,
    held: HeldOut,
    penalty: Penalty,
    lam: float,
    settings: GateSettings,
    seed: int,
    report: Callable[[str], None],
) -> Figures:
    """Measure all figures of the gates; a figure is None if the log has no data for it."""
    report("gates: click predictor on held-out clicks")
    pairs = [(a.as_bid, a.generation.answer) for a in held.answers]
    clicks = [a.clicks for a in held.answers]
    new = models.predictor.probabilities(pairs)
    old = models.serving_predictor.probabilities(pairs) if models.serving_predictor else None
    clicked = predictor_figures(predicted_clicks(clicks, new, old, held.seen_N.tolist(), held.newest), seed)
    report("gates: off-policy estimates")
    revenue, experience = _off_policy(models, held, penalty, lam, settings, seed)
    report("gates: fresh answers of both models")
    rng = np.random.default_rng([seed, 51])
    contexts = [held.answers[i].as_bid for i in rng.permutation(len(held.answers))[: settings.queries]]
    serving, candidate, ratio = _answers_of_both(models, contexts, seed + 1)
    qualities = [
        answer_qualities([(c.query, g.answer, g.finished) for c, g in zip(contexts, own, strict=True)], _encode)
        for own in (serving, candidate)
    ]
    quality = PairedGain(
        float(np.mean(qualities[0])), difference_interval(qualities[1], qualities[0], seed), len(contexts)
    )
    faults = float(np.mean([len(g.answer.faults) for g in candidate]))
    report("gates: sweep of bids")
    swept = _sweep(models, contexts[: settings.swept], seed + 2)
    simulator = None
    if settings.simulator is not None:
        report("gates: simulated world")
        simulator = _simulated(models, settings.simulator, settings.queries, seed + 3)
    return Figures(
        predictor=clicked,
        revenue=revenue,
        experience=experience,
        simulator=simulator,
        monotonicity=swept,
        invalid=(faults, len(candidate)),
        quality=quality,
        latency_ratio=ratio,
    )


def _off_policy(
    models: Models, held: HeldOut, penalty: Penalty, lam: float, settings: GateSettings, seed: int
) -> tuple[Estimate | None, Estimate | None]:
    """Estimate revenue and experience of the candidate from the answers that the serving model wrote.

    Answers are grouped by the sampling settings they were drawn with, since one group is one distribution. None where
    the serving model wrote no answer.
    """
    own = [i for i, a in enumerate(held.answers) if a.digest in models.digests][-settings.offpolicy.contexts :]
    groups: dict[SamplingSettings, list[int]] = {}
    for i in own:
        groups.setdefault(_drawn_under(held.answers[i], models.serving), []).append(i)
    if not groups:
        return None, None
    parts = []
    for drawn, members in groups.items():
        some = [held.answers[i] for i in members]
        log = [Sampled(a.context, (_with_tokens(a.generation, models.serving),), (a.clicks,)) for a in some]
        parts.append(
            gather(
                log,
                Sampler(models.serving, drawn),
                Sampler(models.candidate, replace(models.candidate.sampling, max_ads=drawn.max_ads)),
                models.predictor,
                penalty,
                lam,
                settings.offpolicy,
                seed,
                {a.context.id: a.bids for a in some},
                {held.answers[i].context.id: float(held.seen_N[i]) for i in members},
            )
        )
    evidence, action = join(parts), settings.offpolicy.action
    return (
        estimate(evidence.revenue(action), settings.offpolicy, seed),
        estimate(evidence.experience(action), settings.offpolicy, seed),
    )


def _drawn_under(answer: LoggedAnswer, policy: Policy) -> SamplingSettings:
    """Return the settings that an answer was sampled with: as logged, and the model's own where none is logged."""
    logged = answer.sampling
    known = {
        name: getattr(logged, name)
        for name in ("temperature", "top_p", "top_k", "max_new_tokens")
        if getattr(logged, name) is not None
    }
    return replace(policy.sampling, max_ads=logged.max_ads, **known)


def _with_tokens(generation: Generation, policy: Policy) -> Generation:
    """Return the answer with its token ids, which events do not record.

    A marker ends with a token of its own: the candidate trie allows no other, where the tokenizer alone might join the
    bracket with a full stop. Where the model wrote other tokens, its logged probability is not reproduced, and the
    estimate counts a disagreement.
    """
    answer, at = generation.answer, 0
    tokens: list[int] = []
    for insertion in answer.insertions:
        title = answer.text[insertion.start : insertion.end]
        marker = render_marker(Ad(insertion.ad_id, title, "", ""))
        found = answer.raw.find(marker, at)
        if found >= 0:
            end = found + len(marker)
            tokens += policy.text_ids(answer.raw[at:end])
            at = end
    return replace(generation, token_ids=(*tokens, *policy.text_ids(answer.raw[at:])))


def _answers_of_both(
    models: Models, contexts: Sequence[Context], seed: int
) -> tuple[list[Generation], list[Generation], float]:
    """Sample one answer of each model to every context, as a reader gets it, and compare their times.

    Returns the serving model's answers, the candidate's, and the candidate's seconds over the serving model's (median
    over parts). On a CPU that is process time, so that other work on the machine does not count.
    """
    clock = time.process_time if models.serving.model.device.type == "cpu" else time.perf_counter
    found: dict[str, list[Generation]] = {"serving": [], "candidate": []}
    ratios: list[float] = []
    for part in np.array_split(np.arange(len(contexts)), BLOCKS):
        some = [contexts[i] for i in part]
        if not some:
            continue
        spent = {}
        for name, policy in (("serving", models.serving), ("candidate", models.candidate)):
            began = clock()
            found[name] += [own[0] for own in policy.generate(some, 1, seed)]
            spent[name] = clock() - began
        ratios.append(spent["candidate"] / spent["serving"])
    return found["serving"], found["candidate"], statistics.median(ratios)


def _sweep(models: Models, contexts: Sequence[Context], seed: int) -> Monotonicity | None:
    """Sweep the bid of one ad in each context over the quantiles of the log's bids, the others fixed.

    Expected clicks are the probability that a marker names the ad times its click rate by the click predictor (of the
    answers that show it; the mean rate where none does). Summing propensities in place of counting ads removes most of
    the noise.
    """
    if not contexts:
        return None
    ads = _nearby_ads(contexts, seed)
    bids = np.quantile([c.bid for context in contexts for c in context.candidates], LEVELS)
    levels = sorted({round(b) for b in bids})
    if len(levels) < 2:
        return None
    exposure_LC = np.zeros((len(levels), len(contexts)))
    shown: list[list[float]] = [[] for _ in contexts]
    for k, bid in enumerate(levels):
        versions = [c.with_bids({ad: bid}) for c, ad in zip(contexts, ads, strict=True)]
        answers = [own[0] for own in models.candidate.generate(versions, 1, seed)]
        rates = models.predictor.probabilities([(c, g.answer) for c, g in zip(versions, answers, strict=True)])
        for q, (ad, g) in enumerate(zip(ads, answers, strict=True)):
            exposure_LC[k, q] = min(1.0, sum(choice.probabilities.get(ad, 0.0) for choice in g.choices))
            shown[q] += [rates[q][ad]] if ad in rates[q] else []
    everywhere = [rate for own in shown for rate in own]
    usual = float(np.mean(everywhere)) if everywhere else 1.0
    rates_C = np.array([float(np.mean(own)) if own else usual for own in shown])
    return monotonicity(exposure_LC * rates_C, [float(b) for b in levels], seed)


def _nearby_ads(contexts: Sequence[Context], seed: int) -> list[AdId]:
    """Choose for each context one of the candidates nearest to its query, at random."""
    rng = np.random.default_rng([seed, 21])
    chosen = []
    for context in contexts:
        ads = [c.ad for c in context.candidates]
        vectors = _encode([context.query, *(f"{ad.title}: {ad.text}" for ad in ads)])
        near = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:SWEPT_FROM]
        chosen.append(ads[int(near[rng.integers(len(near))])].id)
    return chosen


def _simulated(models: Models, world: WorldConfig, queries: int, seed: int) -> PairedGain:
    """Compare the models' expected revenue per query on held-out queries of a simulated world."""
    source = ContextSource(build_world(world), world, seed, 0)
    contexts = source.test(queries)
    truth = ClickModel()

    def revenue(policy: Policy) -> list[float]:
        answers = [own[0].answer for own in policy.generate(contexts, 1, seed)]
        return [value(a, c.bids(), truth.probabilities(c, a)) for c, a in zip(contexts, answers, strict=True)]

    serving, candidate = revenue(models.serving), revenue(models.candidate)
    return PairedGain(float(np.mean(serving)), difference_interval(candidate, serving, seed), len(contexts))


def _encode(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return shared_encoder().encode(list(texts))
