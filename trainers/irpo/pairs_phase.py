"""The phase that scores the rollouts and makes preference groups of them, with their reference log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from mechanism.errors import GuardError
from trainers.artifacts.sampled import read_sampled
from trainers.irpo.answer_phases import ANSWERS
from trainers.irpo.edited_answers import with_edits
from trainers.irpo.preference_pairs import build_groups
from trainers.irpo.quality_term import weighted_qualities
from trainers.irpo.session import Session
from trainers.irpo.shared_phases import SharedPhase
from trainers.optimisation.groups import (
    TokenGroup,
    read_rows,
    tokenise,
    with_reference,
    with_sampling,
    write_groups,
)
from trainers.optimisation.sharding import Part

GROUPS = "groups.parquet"
CONTEXTS = "contexts.msgpack"
"""What a shard's GROUPS do not hold: by context the number of its groups, of its answers, and all rewards."""


@dataclass(frozen=True, slots=True)
class ContextGroups:
    """The groups of one context, under its own and under counterfactual bids.

    `answers` is the number of its answers, edited ones included; `rewards` are those of all answers in each group.
    """

    groups: tuple[TokenGroup, ...]
    answers: int
    rewards: tuple[float, ...]


def _pairs(session: Session, epoch: int, part: Part) -> list[ContextGroups]:
    """Score a share of the rollouts (Eq. 5), pick winners and losers (Eq. 6), and compute reference log-probabilities.

    Edits, counterfactual bids and drawn losers come from the shard's own seed.
    """
    config = session.config
    reference = session.reference(0 if config.optimisation.reference == "base" else epoch - 1)
    settings, rng = session.sampling(reference), np.random.default_rng(part.seed(session.seed(epoch, 5)))
    rolled_out = part.share(read_sampled(session.run.phase("rollouts", epoch).fetch() / ANSWERS))
    if not rolled_out:  # more shards than contexts
        return []
    sampled = [with_edits(item, reference, settings, config.preference, rng) for item in rolled_out]
    flat = [(item.context, g) for item in sampled for g in item.generations]
    scored = iter(session.predictor(epoch).probabilities([(c, g.answer) for c, g in flat]))
    graded = iter(weighted_qualities([(c, g.answer, g.finished) for c, g in flat], config.preference.quality_weight))
    groups = build_groups(
        sampled,
        [[next(scored) for _ in item.generations] for item in sampled],
        config.preference,
        session.penalty,
        rng,
        session.contexts.redraw,
        qualities=[[next(graded) for _ in item.generations] for item in sampled],
        every_answer=config.optimisation.objective == "rloo",
    )
    precision = config.optimisation.precision
    tokens = tokenise(reference, groups, sampled, settings, whole=not config.optimisation.shared_prefix)
    tokens = with_reference(reference, tokens, precision=precision)
    if config.optimisation.objective == "rloo":
        tokens = with_sampling(session.reference(epoch - 1), tokens, precision=precision)
    own: list[list[int]] = [[] for _ in sampled]
    for number, group in enumerate(groups):
        own[group.sample].append(number)
    return [
        ContextGroups(
            tuple(tokens[number] for number in numbers),
            len(item.generations),
            tuple(reward for number in numbers for reward in groups[number].rewards),
        )
        for item, numbers in zip(sampled, own, strict=True)
    ]


def _publish(session: Session, epoch: int, contexts: Sequence[ContextGroups]) -> str:
    """Write the groups of all contexts.

    Raises:
        GuardError: if no answer beats another by more than `preference.delta`.
    """
    groups = [group for context in contexts for group in context.groups]
    if not groups:
        raise GuardError(
            "no_pairs",
            "no answer beats another by more than preference.delta; lower it, or raise rollout.samples",
            {"answers": float(sum(c.answers for c in contexts)), "delta": session.config.preference.delta},
        )
    with session.run.phase("pairs", epoch).open() as folder:
        write_groups(folder / GROUPS, groups)
    count = sum(len(group.answers_ids) - 1 for group in groups)
    mean = np.mean([reward for context in contexts for reward in context.rewards])
    return f"{count} pairs in {len(groups)} groups, mean reward {mean:.1f}"


def _write(folder: Path, contexts: Sequence[ContextGroups]) -> None:
    write_groups(folder / GROUPS, [group for context in contexts for group in context.groups])
    kept = [(len(context.groups), context.answers, context.rewards) for context in contexts]
    (folder / CONTEXTS).write_bytes(msgspec.msgpack.encode(kept))


def _read(folder: Path) -> list[ContextGroups]:
    rows = iter(read_rows(folder / GROUPS))
    kept = msgspec.msgpack.decode((folder / CONTEXTS).read_bytes(), type=list[tuple[int, int, tuple[float, ...]]])
    return [
        ContextGroups(tuple(TokenGroup(**next(rows)) for _ in range(count)), answers, rewards)
        for count, answers, rewards in kept
    ]


PAIRS = SharedPhase("pairs", _pairs, _write, _read, _publish)
