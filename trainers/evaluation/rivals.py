"""The rival mechanisms, each with its settings, as its paper describes it; auctions are those of `mechanism.baselines`.

Every auction that is held before generation forces its winners into the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from inference.mixture import Voice, generate_mixed
from inference.naming import naming_probabilities
from inference.sampling import SamplingSettings
from mechanism.baselines import SHOWN_BID, BaselineAnswer, gsp, lera, restricted, segment, simple, token
from mechanism.baselines.ranking import Won
from mechanism.types import Context, Generation
from trainers.evaluation.methods import Arena, Played, play_policy, retrieval_scores, write_winners
from trainers.reward.prior import prior_pctr

AD_SLOT = "One fitting offer is @"
"""Where LERA asks the policy which ad it would name."""


class Rival(Protocol):
    """A mechanism with all of its settings chosen."""

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        """Answer every context; same arguments, same answers."""
        ...


@dataclass(frozen=True, slots=True)
class Pretrained:
    """The base policy in the generative auction itself."""

    sampling: SamplingSettings

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        return play_policy(arena.policy, contexts, seed, self.sampling)


@dataclass(frozen=True, slots=True)
class MostRelevant:
    """The `slots` most relevant ads by retrieval or by predicted pCTR, whatever they bid."""

    scores: Literal["retrieval", "pctr"]
    sampling: SamplingSettings
    slots: int = 2

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        scores = prior_pctr(arena.predictor, contexts) if self.scores == "pctr" else retrieval_scores(contexts, 1.0)
        won = [simple.most_relevant(c.bids(), q, self.slots) for c, q in zip(contexts, scores, strict=True)]
        return _written(arena, contexts, won, self.sampling, seed, started)


@dataclass(frozen=True, slots=True)
class HighestBids:
    """The `slots` highest bidders, whatever they offer."""

    sampling: SamplingSettings
    slots: int = 2

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        won = [simple.highest_bids(c.bids(), self.slots) for c in contexts]
        return _written(arena, contexts, won, self.sampling, seed, started)


@dataclass(frozen=True, slots=True)
class Gsp:
    """A position auction by bid times predicted pCTR (arXiv 2404.08126)."""

    auction: gsp.GspSettings
    sampling: SamplingSettings

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        scores = prior_pctr(arena.predictor, contexts)
        won = [gsp.allocate(c.bids(), p, self.auction) for c, p in zip(contexts, scores, strict=True)]
        return _written(arena, contexts, won, self.sampling, seed, started)


@dataclass(frozen=True, slots=True)
class Segment:
    """Randomised auctions over retrieval scores, the answer written segment by segment (arXiv 2406.09459).

    A segment ends with the sentence that shows its winner; the last one ends where the policy ends the answer.
    """

    auction: segment.SegmentSettings
    sharpness: float
    sampling: SamplingSettings

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        scores = retrieval_scores(contexts, self.sharpness)
        won = [
            segment.allocate(c.bids(), q, self.auction, seed + k)
            for k, (c, q) in enumerate(zip(contexts, scores, strict=True))
        ]
        written: list[Generation | None] = [None] * len(contexts)
        for number in range(max((len(own) for own in won), default=0) or 1):
            last = [k for k, own in enumerate(won) if max(len(own), 1) == number + 1]
            open_ended = [k for k, own in enumerate(won) if len(own) > number + 1]
            for rows, ends in ((open_ended, False), (last, True)):
                self._write(arena, contexts, won, written, rows, number, ends, seed + number)
        answers = tuple(
            BaselineAnswer(generation, {w.ad_id: w.price for w in own}, 1)
            for generation, own in zip(written, won, strict=True)
            if generation is not None
        )
        return Played(answers, time.monotonic() - started)

    def _write(
        self,
        arena: Arena,
        contexts: Sequence[Context],
        won: Sequence[Sequence[Won]],
        written: list[Generation | None],
        rows: Sequence[int],
        number: int,
        ends: bool,
        seed: int,
    ) -> None:
        """Write segment `number` (from 0) of the answers `rows`; each segment has an equal part of the token budget."""
        if not rows:
            return
        sampling = self.sampling.showing_all()
        if not ends:
            # All of `rows` have a later segment, which needs its part of the budget.
            parts = max(len(won[k]) for k in rows)
            budget = sampling.max_new_tokens * (number + 1) // parts
            sampling = replace(sampling, max_new_tokens=budget, one_segment=True)
        shown = [restricted(contexts[k], (w.ad_id for w in won[k][: number + 1]), SHOWN_BID) for k in rows]
        openings = [g for k in rows if (g := written[k]) is not None] or None
        drawn = arena.policy.generate(shown, 1, seed, sampling, openings)
        for k, own in zip(rows, drawn, strict=True):
            written[k] = own[0]


@dataclass(frozen=True, slots=True)
class Token:
    """The token auction over retrieved advertisers (arXiv 2310.10826): a generation for each one that takes part."""

    auction: token.TokenSettings
    sharpness: float
    sampling: SamplingSettings

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        scores = retrieval_scores(contexts, self.sharpness)
        shares = [token.mixture(c.bids(), q, self.auction) for c, q in zip(contexts, scores, strict=True)]
        voices = [
            [Voice(restricted(c, [ad_id], SHOWN_BID), share) for ad_id, share in own.items()]
            or [Voice(restricted(c, []), 1.0)]
            for c, own in zip(contexts, shares, strict=True)
        ]
        shown = [restricted(c, own) for c, own in zip(contexts, shares, strict=True)]
        drawn = generate_mixed(arena.policy, shown, voices, seed, self.sampling)
        answers = tuple(
            BaselineAnswer(generation, c.bids(), len(own))
            for generation, c, own in zip(drawn, contexts, voices, strict=True)
        )
        return Played(answers, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class Lera:
    """Retrieved ads, ranked by bid times the policy's probability of naming them (arXiv 2605.16474)."""

    auction: lera.LeraSettings
    sharpness: float
    sampling: SamplingSettings

    def play(self, arena: Arena, contexts: Sequence[Context], seed: int) -> Played:
        started = time.monotonic()
        scores = retrieval_scores(contexts, self.sharpness)
        passing = [lera.shortlist(c.bids(), q, self.auction) for c, q in zip(contexts, scores, strict=True)]
        # All at one bid and in order of id: neither bids nor their rank may change the scores.
        asked = [restricted(c, sorted(own), SHOWN_BID) for c, own in zip(contexts, passing, strict=True)]
        named = naming_probabilities(arena.policy, asked, [AD_SLOT] * len(asked))
        won = [
            lera.allocate(c.bids(), own, probabilities, self.auction)
            for c, own, probabilities in zip(contexts, passing, named, strict=True)
        ]
        return _written(arena, contexts, won, self.sampling, seed, started)


def _written(
    arena: Arena,
    contexts: Sequence[Context],
    won: Sequence[Sequence[Won]],
    sampling: SamplingSettings,
    seed: int,
    started: float,
) -> Played:
    answers = write_winners(arena.policy, contexts, won, sampling, seed)
    return Played(answers, time.monotonic() - started)
