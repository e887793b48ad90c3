"""The phases in which the current policy answers training contexts: feedback with clicks, and rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mechanism.types import Context
from simulator.brands import renamed
from trainers.artifacts.sampled import Sampled, read_sampled, write_sampled
from trainers.config.schema import JudgeConfig
from trainers.irpo.answering import answers_in_chunks
from trainers.irpo.feedback import Click, judged_clicks, simulated_clicks
from trainers.irpo.session import Session
from trainers.irpo.shared_phases import SharedPhase
from trainers.optimisation.sharding import Part

ANSWERS = "answers.parquet"


def _feedback(session: Session, epoch: int, part: Part) -> list[Sampled]:
    """Deploy the current policy on a share of the training contexts and record clicks (D_on)."""
    if session.config.reward.source == "oracle":
        return []
    config = session.config.feedback
    contexts = part.share(session.contexts.training(config.contexts, epoch, 1))
    phase = session.run.phase(part.folder("feedback"), epoch)
    seed = part.seed(session.seed(epoch, 1))
    answers = answers_in_chunks(session, phase, epoch - 1, contexts, config.answers, seed, engine=session.engine)
    click = users_of(session, config.judge, part, session.seed(epoch, 2))
    clicked = iter(click([(c, g.answer) for c, own in zip(contexts, answers, strict=True) for g in own]))
    return [Sampled(c, tuple(own), tuple(next(clicked) for _ in own)) for c, own in zip(contexts, answers, strict=True)]


def users_of(session: Session, judge: JudgeConfig | None, part: Part, seed: int) -> Click:
    """Return the users of a shard; `seed` is that of the whole phase.

    Each shard has its share of the judge's budget. The judge gets one seed for all shards: their answers differ, many
    endpoints keep a seed in 32 bits, and replies in its cache hold for any number of shards.
    """
    if judge is None:
        return simulated_clicks(session.truth, part.seed(seed))
    if judge.budget_micros is not None:
        judge = judge.model_copy(update={"budget_micros": judge.budget_micros // part.shards})
    return judged_clicks(judge, seed, session.progress.report)


def _publish_feedback(session: Session, epoch: int, sampled: Sequence[Sampled]) -> str:
    with session.run.phase("feedback", epoch).open() as folder:
        write_sampled(folder / ANSWERS, sampled)
    if session.config.reward.source == "oracle":
        return "none: the oracle knows what users click"
    clicks = [hit for item in sampled for answer in item.clicks or () for hit in answer.values()]
    return f"{len(clicks)} ads shown, click rate {np.mean(clicks) if clicks else 0:.3f}"


def _rollouts(session: Session, epoch: int, part: Part) -> list[Sampled]:
    """Sample M answers to each context of a share from the current policy, with their propensities."""
    policy = session.policy(epoch - 1)
    contexts = part.share(_rollout_contexts(session, epoch))
    phase = session.run.phase(part.folder("rollouts"), epoch)
    seed, samples = part.seed(session.seed(epoch, 4)), session.config.rollout.samples
    answers = answers_in_chunks(
        session, phase, epoch - 1, contexts, samples, seed, session.sampling(policy), engine=session.engine
    )
    return [Sampled(c, tuple(own)) for c, own in zip(contexts, answers, strict=True)]


def _rollout_contexts(session: Session, epoch: int) -> list[Context]:
    config = session.config.rollout
    contexts = session.contexts.training(config.contexts, epoch, 4)
    if not config.new_titles:
        return contexts
    rng = np.random.default_rng(session.seed(epoch, 8))
    # Some of the offers or all: new titles have to win against known ones as well.
    return [renamed(c, rng, rng.random()) if rng.random() < config.new_titles else c for c in contexts]


def _publish_rollouts(session: Session, epoch: int, sampled: Sequence[Sampled]) -> str:
    with session.run.phase("rollouts", epoch).open() as folder:
        count = write_sampled(folder / ANSWERS, sampled)
    faults = sum(len(g.answer.faults) for item in sampled for g in item.generations)
    return f"{count} answers to {len(sampled)} contexts, {faults} invalid insertions"


def _write(folder: Path, sampled: Sequence[Sampled]) -> None:
    write_sampled(folder / ANSWERS, sampled)


def _read(folder: Path) -> list[Sampled]:
    return read_sampled(folder / ANSWERS)


FEEDBACK = SharedPhase("feedback", _feedback, _write, _read, _publish_feedback)
ROLLOUTS = SharedPhase("rollouts", _rollouts, _write, _read, _publish_rollouts)
