"""Every mechanism of the table, run on the same contexts; selection and prices are those of `mechanism.baselines`.

One policy call covers all contexts of a step, so that tables of thousands of answers take minutes. Every baseline gets
the run's base policy and its latest pCTR model; its own settings are tuned on validation contexts by the same learned
reward that trains our policy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.baselines import BaselineAnswer, gsp, mosaic, restricted, segment
from mechanism.baselines.ranking import Won
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Answer, Context, Generation
from trainers.reward.model import ClickPredictor

SHOWN_BID = 100 * MICROS_PER_POINT
"""Winners of an auction held before generation are shown to the policy at the highest bid."""
SHARPNESS = (0.05, 0.1)
SLOTS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Played:
    """One method's answers to the contexts, in order, and the seconds that all of them took."""

    answers: tuple[BaselineAnswer, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Replay:
    """A Generator of the baselines over answers that were generated before, by context id."""

    generations: Mapping[str, Sequence[Generation]]

    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        return list(self.generations[context.id][:samples])


def play_policy(policy: Policy, contexts: Sequence[Context], seed: int) -> Played:
    """Run the generative auction itself: one answer, first price."""
    started = time.monotonic()
    answers = policy.generate(contexts, 1, seed)
    return Played(
        tuple(BaselineAnswer(own[0], c.bids(), 1) for c, own in zip(contexts, answers, strict=True)),
        time.monotonic() - started,
    )


def play_mosaic(
    policy: Policy,
    predictor: ClickPredictor,
    contexts: Sequence[Context],
    penalty: Penalty,
    lam: float,
    samples: int,
    sampling: SamplingSettings,
    seed: int,
) -> Played:
    """Run MOSAIC with M samples and tau = 0, the best of M: no other tau has a higher expected learned reward."""
    started = time.monotonic()
    drawn = policy.generate(contexts, samples, seed, sampling)
    flat = [(c, g.answer) for c, own in zip(contexts, drawn, strict=True) for g in own]
    known = {(c.id, a.raw): p for (c, a), p in zip(flat, predictor.probabilities(flat), strict=True)}
    replay = _Replay({c.id: own for c, own in zip(contexts, drawn, strict=True)})
    settings = mosaic.MosaicSettings(samples=samples, tau=0.0, lam=lam, penalty=penalty)
    answers = [
        mosaic.answer(c, replay, lambda context, answer: known[(context.id, answer.raw)], settings, seed + k)
        for k, c in enumerate(contexts)
    ]
    return Played(tuple(answers), time.monotonic() - started)


def play_gsp(
    policy: Policy, predictor: ClickPredictor, contexts: Sequence[Context], settings: gsp.GspSettings, seed: int
) -> Played:
    """Run a position auction by bid times pCTR, then write one answer from the winners."""
    started = time.monotonic()
    scores = prior_pctr(predictor, contexts)
    won = [gsp.allocate(c.bids(), p, settings) for c, p in zip(contexts, scores, strict=True)]
    return _rewrite(policy, contexts, won, settings.shown_bid, seed, started)


def play_segment(
    policy: Policy, contexts: Sequence[Context], settings: segment.SegmentSettings, sharpness: float, seed: int
) -> Played:
    """Run randomised auctions for segments over retrieval scores, then write one answer from the winners."""
    started = time.monotonic()
    scores = retrieval_scores(contexts, sharpness)
    won = [
        segment.allocate(c.bids(), q, settings, seed + k) for k, (c, q) in enumerate(zip(contexts, scores, strict=True))
    ]
    return _rewrite(policy, contexts, won, settings.shown_bid, seed, started)


def _rewrite(
    policy: Policy,
    contexts: Sequence[Context],
    won: Sequence[tuple[Won, ...]],
    shown_bid: int | None,
    seed: int,
    started: float,
) -> Played:
    winners = [restricted(c, (w.ad_id for w in own), shown_bid) for c, own in zip(contexts, won, strict=True)]
    answers = policy.generate(winners, 1, seed)
    return Played(
        tuple(
            BaselineAnswer(own[0], {w.ad_id: w.price for w in prices}, 1)
            for own, prices in zip(answers, won, strict=True)
        ),
        time.monotonic() - started,
    )


def prior_pctr(predictor: ClickPredictor, contexts: Sequence[Context]) -> list[dict[AdId, float]]:
    """Predict the pCTR of every candidate before an answer exists: alone in a plain sentence."""
    pairs: list[tuple[Context, Answer]] = []
    for context in contexts:
        ads = [c.ad for c in context.candidates]
        question = context.query.strip(" ?.!")
        pairs += [(context, parse(f"On {question}. One fitting offer is {render_marker(ad)}.", ads)) for ad in ads]
    predicted = iter(predictor.probabilities(pairs))
    return [{c.ad.id: next(predicted)[c.ad.id] for c in context.candidates} for context in contexts]


def retrieval_scores(contexts: Sequence[Context], sharpness: float) -> list[dict[AdId, float]]:
    """Score the relevance q_i of every candidate: exp(cosine / sharpness) of query and ad under the frozen encoder."""
    encode = shared_encoder().encode
    scores = []
    for context in contexts:
        vectors = encode([context.query, *(f"{c.ad.title}: {c.ad.text}" for c in context.candidates)])
        cosines = vectors[1:] @ vectors[0]
        weights = np.exp((cosines - cosines.max()) / sharpness)
        scores.append({c.ad.id: float(w) for c, w in zip(context.candidates, weights, strict=True)})
    return scores


@dataclass(frozen=True, slots=True)
class BaselineTuning:
    """The settings of the baselines that did best on validation contexts."""

    mosaic_sampling: SamplingSettings
    gsp: gsp.GspSettings
    segment: segment.SegmentSettings
    sharpness: float


def tune_baselines(
    policy: Policy,
    predictor: ClickPredictor,
    contexts: Sequence[Context],
    penalty: Penalty,
    lam: float,
    samples: int,
    temperatures: Sequence[float],
    seed: int,
) -> BaselineTuning:
    """Try every setting of the grids and keep the one with the highest learned reward.

    MOSAIC may sample as the base is served, from the untruncated policy, which gives it a wider choice, or at any
    temperature that the trained policy may be served at.
    """

    def score(played: Played) -> float:
        pairs = [(c, a.generation.answer) for c, a in zip(contexts, played.answers, strict=True)]
        predicted = predictor.probabilities(pairs)
        return float(
            np.mean([reward(a, c.bids(), p, penalty, lam) for (c, a), p in zip(pairs, predicted, strict=True)])
        )

    widths = [policy.sampling, replace(policy.sampling, temperature=1.0, top_p=1.0, top_k=0)]
    widths += [w for t in temperatures if (w := replace(policy.sampling, temperature=t)) not in widths]
    best_width = max(
        widths, key=lambda w: score(play_mosaic(policy, predictor, contexts, penalty, lam, samples, w, seed))
    )
    positions = [gsp.GspSettings(slots=k, shown_bid=SHOWN_BID) for k in SLOTS]
    best_gsp = max(positions, key=lambda g: score(play_gsp(policy, predictor, contexts, g, seed)))
    segments = [(segment.SegmentSettings(segments=k, shown_bid=SHOWN_BID), t) for k in SLOTS for t in SHARPNESS]
    best_segment, sharpness = max(segments, key=lambda st: score(play_segment(policy, contexts, st[0], st[1], seed)))
    return BaselineTuning(best_width, best_gsp, best_segment, sharpness)


def with_ids(contexts: Sequence[Context]) -> list[Context]:
    """Return the contexts under distinct ids (a query may be drawn twice)."""
    return [replace(c, id=f"{c.id}#{k}") for k, c in enumerate(contexts)]
