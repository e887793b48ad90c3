"""The settings that each rival may choose from, and their choice on validation contexts by the learned reward.

Our policy chooses its epoch and its temperature by the same reward on the same contexts; every grid here is at least as
large. All settings are screened on the first contexts, and the best of them compared on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Generic, TypeVar

from inference.sampling import SamplingSettings
from mechanism.baselines import gsp, lera, segment, token
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Context
from trainers.config import EvaluationConfig
from trainers.evaluation.best_of_many import draw, play_mosaic
from trainers.evaluation.methods import Arena, learned_reward
from trainers.evaluation.rivals import Gsp, HighestBids, Lera, MostRelevant, Pretrained, Rival, Segment, Token

TEMPERATURES: Final = (1.0, 0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.2, 0.1)
"""Of mechanisms with no other setting."""
FEW_TEMPERATURES: Final = (0.7, 0.35, 0.15)
"""Of mechanisms whose auction has settings too."""
SLOTS: Final = (1, 2, 3)
SHARPNESS: Final = (0.05, 0.1)
RESERVES: Final = (0, 10 * MICROS_PER_POINT, 20 * MICROS_PER_POINT)
"""Of the position auction: expected payment of an impression."""

Chosen = TypeVar("Chosen")
Playing = TypeVar("Playing", bound=Rival)


@dataclass(frozen=True, slots=True)
class Tuned(Generic[Chosen]):
    """The settings with the highest mean learned reward (points) on validation contexts, of `tried` settings."""

    chosen: Chosen
    reward: float
    tried: int


def grids(base: SamplingSettings) -> dict[str, Sequence[Rival]]:
    """Return the settings of every rival of one generation, and of the token auction, by method."""
    many = [replace(base, temperature=t) for t in TEMPERATURES]
    few = [replace(base, temperature=t) for t in FEW_TEMPERATURES]
    bids = (0, 40 * MICROS_PER_POINT)
    scores = (0, 5 * MICROS_PER_POINT)
    return {
        "pretrained": [Pretrained(s) for s in many],
        "most_relevant": [MostRelevant("retrieval", s) for s in many] + [MostRelevant("pctr", s) for s in many],
        "highest_bids": [HighestBids(s) for s in many],
        "gsp": [Gsp(gsp.GspSettings(k, r), s) for k, r, s in product(SLOTS, RESERVES, few)],
        "segment": [
            Segment(segment.SegmentSettings(k, r), q, s) for k, r, q, s in product(SLOTS, bids, SHARPNESS, few)
        ],
        "token": [Token(token.TokenSettings(n), q, s) for n, q, s in product((2, 3), SHARPNESS, few)],
        "lera": [Lera(lera.LeraSettings(5, k, r), q, s) for k, r, q, s in product(SLOTS, scores, SHARPNESS, few)],
    }


def tune(
    arena: Arena, grid: Sequence[Playing], contexts: Sequence[Context], seed: int, config: EvaluationConfig
) -> Tuned[Playing]:
    """Return the best settings of a grid: all are tried on a few contexts, the best of them on all."""

    def score(rival: Playing, own: Sequence[Context]) -> float:
        return learned_reward(arena, own, rival.play(arena, own, seed).answers)

    screened = sorted(grid, key=lambda rival: score(rival, contexts[: config.screened]), reverse=True)
    finals = [(score(rival, contexts), rival) for rival in screened[: config.finalists]]
    best, chosen = max(finals, key=lambda pair: pair[0])
    return Tuned(chosen, best, len(grid))


def mosaic_grid(base: SamplingSettings) -> list[SamplingSettings]:
    """Return how MOSAIC may sample: at several temperatures, and untruncated, which gives it the widest choice."""
    widths = [replace(base, temperature=t) for t in TEMPERATURES]
    return list(dict.fromkeys([*widths, replace(base, temperature=1.0, top_p=1.0, top_k=0)]))


def tune_mosaic(
    arena: Arena,
    grid: Sequence[SamplingSettings],
    contexts: Sequence[Context],
    numbers: Sequence[int],
    seed: int,
    config: EvaluationConfig,
) -> Mapping[int, Tuned[SamplingSettings]]:
    """Return for each number of samples M the best sampling; all M choose from the same answers."""
    own, rewards = contexts[: config.mosaic_contexts], []
    for sampling in grid:
        drawn = draw(arena, own, max(numbers), sampling, seed)
        played = {m: play_mosaic(arena, own, drawn, m, seed) for m in numbers}
        rewards.append({m: learned_reward(arena, own, p.answers) for m, p in played.items()})
    best = {m: max(range(len(grid)), key=lambda k: rewards[k][m]) for m in numbers}
    return {m: Tuned(grid[k], rewards[k][m], len(grid)) for m, k in best.items()}
