"""Answers of a rollout engine in the order of their contexts."""

from __future__ import annotations

from collections.abc import Sequence

from inference.sampling import SamplingSettings
from mechanism.types import Context, Generation
from trainers.rollout.engine import RolloutEngine, Version


def answered(
    engine: RolloutEngine,
    version: Version,
    contexts: Sequence[Context],
    samples: int,
    seed: int,
    settings: SamplingSettings,
) -> list[list[Generation]]:
    """Return the answers to each context."""
    found: dict[int, list[Generation]] = {}
    for batch in engine.generate_batches(version, contexts, samples, seed, settings):
        found |= {place: list(own) for place, own in zip(batch.places, batch.answers, strict=True)}
    return [found[place] for place in range(len(contexts))]
