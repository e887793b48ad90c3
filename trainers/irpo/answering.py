"""A policy's answers to many contexts, kept batch by batch, so that a phase that dies does not lose them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from inference.policy import AnsweredBatch
from inference.sampling import SamplingSettings
from mechanism.types import Context, Generation
from trainers.artifacts.run_directory import Phase
from trainers.irpo.session import Session
from trainers.rollout.engine import RolloutEngine


def answers_in_chunks(
    session: Session,
    phase: Phase,
    policy_epoch: int,
    contexts: Sequence[Context],
    samples: int,
    seed: int,
    settings: SamplingSettings | None = None,
    *,
    engine: RolloutEngine,
) -> list[list[Generation]]:
    """Return what the policy of an epoch answers on an engine, after a crash from the last whole batch on.

    Every batch of the engine is a chunk of the phase. They are found again by a digest of all that the answers depend
    on.
    """
    version = session.version(policy_epoch)
    settings = settings or version.policy.sampling
    policy = (session.policy_identity(policy_epoch), str(session.sampling_dtype))
    asked = (engine.name, policy, settings, samples, seed, contexts)
    chunks = phase.chunks(hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16])
    batches = [msgspec.msgpack.decode(data, type=AnsweredBatch) for data in chunks.read()]
    if batches:
        session.progress.report(f"{sum(len(b.places) for b in batches)} of {len(contexts)} contexts are answered")
    for batch in engine.generate_batches(version, contexts, samples, seed, settings, done=tuple(batches)):
        chunks.write(len(batches), msgspec.msgpack.encode(batch))
        batches.append(batch)
    answers = {place: own for batch in batches for place, own in zip(batch.places, batch.answers, strict=True)}
    return [list(answers[place]) for place in range(len(contexts))]
