"""The phase that measures an epoch's policy on validation contexts, and in epoch 1 the base model as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mechanism.types import Context
from trainers.artifacts.run_directory import EVALUATION, epoch_file
from trainers.artifacts.sampled import Sampled, read_sampled, write_sampled
from trainers.irpo.answer_phases import ANSWERS
from trainers.irpo.answering import answers_in_chunks
from trainers.irpo.session import Session
from trainers.irpo.shared_phases import SharedPhase
from trainers.irpo.validation import (
    Validation,
    ValidationAnswer,
    check_finite,
    check_guards,
    divergences_from,
    validation_of,
)
from trainers.optimisation.sharding import Part
from trainers.rollout.engine import TransformersEngine

VALIDATION = "validation.json"
"""An epoch's raw answers to the validation contexts."""
DIVERGENCES = "divergences.msgpack"
"""The divergences of a shard's answers from the base, by context."""


@dataclass(frozen=True, slots=True)
class MeasuredContext:
    """A validation context with one answer of each of the policies measured (`_measured_epochs`)."""

    context: Context
    answers: tuple[ValidationAnswer, ...]


def _measured_epochs(epoch: int) -> tuple[int, ...]:
    return (0, 1) if epoch == 1 else (epoch,)


def _evaluation(session: Session, epoch: int, part: Part) -> list[MeasuredContext]:
    """Answer a share of the validation contexts, as users would be answered, and measure the drift from the base."""
    contexts = part.share(session.contexts.validation())
    phase = session.run.phase(part.folder("evaluation"), epoch)
    columns: list[list[ValidationAnswer]] = []
    for number in _measured_epochs(epoch):
        drawn = answers_in_chunks(
            session, phase, number, contexts, 1, part.seed(session.seed(0, 7)), engine=TransformersEngine()
        )
        answers = [own[0] for own in drawn]
        divergences = divergences_from(session.policy(0), session.policy(number), contexts, answers)
        columns.append([ValidationAnswer(a, d) for a, d in zip(answers, divergences, strict=True)])
    return [MeasuredContext(c, own) for c, own in zip(contexts, zip(*columns, strict=True), strict=True)]


def _publish(session: Session, epoch: int, measured: Sequence[MeasuredContext]) -> str:
    """Write the figures and raw answers beside the epoch's phases, and check the guards."""
    contexts, weights = [item.context for item in measured], session.config.preference
    truth = None if session.config.feedback.source == "lake" else session.truth
    for place, number in enumerate(_measured_epochs(epoch)):
        if session.run.exists(epoch_file(number, EVALUATION)):
            continue
        answers = [item.answers[place] for item in measured]
        figures = validation_of(
            contexts,
            answers,
            session.predictor(max(1, number)),
            truth,
            session.penalty,
            weights.lam,
            weights.quality_weight,
        )
        check_finite(figures)
        session.write_epoch_json(VALIDATION, number, [a.generation.answer.raw for a in answers])
        session.write_epoch_json(EVALUATION, number, figures.to_dict())
    history = history_of(session, epoch)
    check_guards(history, session.config.guards)
    now = history[-1]
    rewards = f"reward {now.learned_reward:.1f} by the click predictor"
    if now.revenue is not None and now.true_reward is not None:
        rewards = f"revenue {now.revenue:.1f}, reward {now.true_reward:.1f} (learned {now.learned_reward:.1f})"
    return f"{rewards}, {now.ads_per_answer:.2f} ads an answer, KL to base {now.kl_to_base:.1f}"


def history_of(session: Session, epoch: int) -> list[Validation]:
    """Return the validation figures of epochs 0 to `epoch`."""
    return [Validation(**session.read_epoch_json(EVALUATION, e)) for e in range(epoch + 1)]


def _write(folder: Path, measured: Sequence[MeasuredContext]) -> None:
    answers = [Sampled(item.context, tuple(a.generation for a in item.answers)) for item in measured]
    write_sampled(folder / ANSWERS, answers)
    divergences = [[a.divergence for a in item.answers] for item in measured]
    (folder / DIVERGENCES).write_bytes(msgspec.msgpack.encode(divergences))


def _read(folder: Path) -> list[MeasuredContext]:
    divergences = msgspec.msgpack.decode((folder / DIVERGENCES).read_bytes(), type=list[list[float]])
    return [
        MeasuredContext(item.context, tuple(ValidationAnswer(g, d) for g, d in zip(item.generations, own, strict=True)))
        for item, own in zip(read_sampled(folder / ANSWERS), divergences, strict=True)
    ]


MEASUREMENT = SharedPhase("evaluation", _evaluation, _write, _read, _publish)
