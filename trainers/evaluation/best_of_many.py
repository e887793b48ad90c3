"""MOSAIC at several numbers of samples: one set of sampled answers serves all of them.

With tau = 0 it shows the best of M answers: no other tau has a higher expected learned reward.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.sampling import SamplingSettings
from mechanism.baselines import mosaic
from mechanism.types import AdId, Context, Generation
from trainers.evaluation.methods import Arena, Played


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sampled answers of each context, their predicted click probabilities, and the seconds that both took."""

    generations: tuple[tuple[Generation, ...], ...]
    pctr: Mapping[tuple[str, str], Mapping[AdId, float]]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Replay:
    """A Generator of the baselines over answers that were generated before, by context id."""

    generations: Mapping[str, Sequence[Generation]]

    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        return list(self.generations[context.id][:samples])


def draw(arena: Arena, contexts: Sequence[Context], samples: int, sampling: SamplingSettings, seed: int) -> Drawn:
    """Sample the answers that MOSAIC chooses from."""
    started = time.monotonic()
    drawn = arena.policy.generate(contexts, samples, seed, sampling)
    flat = [(c, g.answer) for c, own in zip(contexts, drawn, strict=True) for g in own]
    predicted = arena.predictor.probabilities(flat)
    pctr = {(c.id, a.raw): p for (c, a), p in zip(flat, predicted, strict=True)}
    return Drawn(tuple(map(tuple, drawn)), pctr, time.monotonic() - started)


def play_mosaic(arena: Arena, contexts: Sequence[Context], drawn: Drawn, samples: int, seed: int) -> Played:
    """Run MOSAIC over the first `samples` drawn answers of each context; they account for their part of the time."""
    replay = _Replay({c.id: own for c, own in zip(contexts, drawn.generations, strict=True)})
    settings = mosaic.MosaicSettings(samples=samples, tau=0.0, lam=arena.lam, penalty=arena.penalty)
    answers = tuple(
        mosaic.answer(c, replay, lambda context, answer: drawn.pctr[context.id, answer.raw], settings, seed + k)
        for k, c in enumerate(contexts)
    )
    return Played(answers, drawn.seconds * samples / len(drawn.generations[0]))
