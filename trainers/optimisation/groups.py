"""Preference groups as token ids, in memory and on disk.

A row is one context: its prompt, its answers with their rewards, the tokens that compete with each of theirs, and their
log-probabilities under the reference policy. These are computed once beforehand, so that no second model is in memory
while training (and ZeRO-3 needs no copy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.errors import InputError
from mechanism.types import Context, Generation
from trainers.artifacts.sampled import Sampled
from trainers.optimisation.packing import PackedBatch, answer_logprobs, pack
from trainers.optimisation.precision import Precision, autocast
from trainers.optimisation.restrictions import (
    AnswerRestrictions,
    Pair,
    Restrictions,
    forbidden_tokens,
    restrictions_of,
    unrestricted,
)

_PAIRS = pa.list_(pa.list_(pa.list_(pa.int32())))
SCHEMA = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("answers_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("decided", pa.list_(pa.list_(pa.bool_())), nullable=False),
        pa.field("rewards", pa.list_(pa.float64()), nullable=False),
        pa.field("forbidden", pa.list_(pa.int32()), nullable=False),
        pa.field("openers", pa.list_(pa.int32()), nullable=False),
        pa.field("allowed", _PAIRS, nullable=False),
        pa.field("barred", _PAIRS, nullable=False),
        pa.field("closed", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("reference_logprobs", pa.list_(pa.float64()), nullable=False),
        pa.field("sampling_logprobs", pa.list_(pa.float64()), nullable=False),
    ],
    metadata={"format": "llm-auction preference groups, version 3; the first answer is the winner"},
)
TOKENS_PER_PASS = 12_000
"""Most packed tokens in one reference pass."""


@dataclass(frozen=True, slots=True)
class PreferenceGroup:
    """A context (under the bids that decided), and the indices of the winner and the losers among its answers.

    `sample` is the context's index among the sampled ones, `rewards` the reward of every answer in points.
    """

    context: Context
    sample: int
    winner: int
    losers: tuple[int, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Token ids of one preference group.

    Prompt, answers (winner first), which of their tokens the policy decided, and the answers' rewards in points.
    `forbidden` to `closed` are the constraint under which they were sampled (`restrictions.Restrictions`).
    `reference_logprobs` and `sampling_logprobs`: log-probabilities of the decided tokens under the reference and under
    the policy that wrote the answers, summed by answer, in nats; empty until computed.
    """

    prompt_ids: list[int]
    answers_ids: list[list[int]]
    decided: list[list[bool]]
    rewards: list[float]
    forbidden: list[int]
    openers: list[int]
    allowed: list[list[Pair]]
    barred: list[list[Pair]]
    closed: list[list[int]]
    reference_logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)


COLUMNS = [f.name for f in fields(TokenGroup)]


def pack_groups(groups: Sequence[TokenGroup]) -> PackedBatch:
    """Pack groups with the constraint of their answers."""
    return pack(
        [g.prompt_ids for g in groups],
        [g.answers_ids for g in groups],
        [g.decided for g in groups],
        [Restrictions(g.forbidden, g.openers, g.allowed, g.barred, g.closed) for g in groups],
    )


def tokenise(
    policy: Policy,
    groups: Sequence[PreferenceGroup],
    sampled: Sequence[Sampled],
    settings: SamplingSettings | None = None,
    *,
    whole: bool = False,
) -> list[TokenGroup]:
    """Return the token ids of every group, without log-probabilities.

    `settings` are those that the answers were sampled with; None: the policy's own. Inside a marker of a constrained
    answer the tokens are forced as soon as no other candidate shares them. The policy does not decide them, so they are
    not part of its probability: counted, they would let the loss fall by making the spelling of a losing ad improbable,
    which changes nothing in what is sampled. `whole` counts every token, each against the whole vocabulary.
    """
    settings = settings or policy.sampling
    result: list[TokenGroup] = []
    for g in groups:
        order = (g.winner, *g.losers)
        answers = [sampled[g.sample].generations[m] for m in order]
        rewards = [g.rewards[m] for m in order]
        result.append(token_group(policy, g.context, answers, rewards, settings, whole=whole))
    return result


def token_group(
    policy: Policy,
    context: Context,
    answers: Sequence[Generation],
    rewards: Sequence[float],
    settings: SamplingSettings,
    *,
    whole: bool = False,
) -> TokenGroup:
    """Return the token ids of some answers to one context."""
    ids = [policy.answer_ids(a) for a in answers]
    along = [
        unrestricted(len(own)) if whole else _replayed(policy, context, a, settings)
        for a, own in zip(answers, ids, strict=True)
    ]
    return TokenGroup(
        prompt_ids=policy.prompt_ids(context),
        answers_ids=ids,
        decided=[r.decided for r in along],
        rewards=list(rewards),
        forbidden=[] if whole else forbidden_tokens(policy, context, settings),
        openers=sorted(policy.vocabulary.openers) if any(r.closed for r in along) else [],
        allowed=[r.allowed for r in along],
        barred=[r.barred for r in along],
        closed=[r.closed for r in along],
    )


def _replayed(policy: Policy, context: Context, answer: Generation, settings: SamplingSettings) -> AnswerRestrictions:
    """Return the constraint along an answer.

    Raises:
        InputError: if the answer cannot have been written under it.
    """
    found = restrictions_of(policy, context, answer, settings)
    if found is None:
        remedy = "it breaks the marker constraint or the length limit: give the settings that it was sampled with"
        raise InputError(f"answer to context {context.id}", answer.answer.raw[:80], remedy)
    return found


def with_reference(
    reference: Policy, groups: Sequence[TokenGroup], *, precision: Precision = "auto"
) -> list[TokenGroup]:
    """Return the groups with log pi_ref of every answer; `precision` is that of the training that follows."""
    logprobs = _answer_logprobs(reference, groups, precision)
    return [replace(g, reference_logprobs=own) for g, own in zip(groups, logprobs, strict=True)]


def with_sampling(sampler: Policy, groups: Sequence[TokenGroup], *, precision: Precision = "auto") -> list[TokenGroup]:
    """Return the groups with the log-probability of every answer under the policy that wrote it."""
    logprobs = _answer_logprobs(sampler, groups, precision)
    return [replace(g, sampling_logprobs=own) for g, own in zip(groups, logprobs, strict=True)]


@torch.inference_mode()
def _answer_logprobs(policy: Policy, groups: Sequence[TokenGroup], precision: Precision) -> list[list[float]]:
    """Compute the log-probabilities by shared-prefix passes over groups of similar length."""
    sizes = [len(g.prompt_ids) + sum(len(a) + 1 for a in g.answers_ids) for g in groups]
    order = sorted(range(len(groups)), key=lambda i: sizes[i])
    result: dict[int, list[float]] = {}
    while order:
        count = max(1, TOKENS_PER_PASS // sizes[order[-1]])
        batch, order = order[-count:], order[:-count]
        packed = pack_groups([groups[i] for i in batch]).to(policy.model.device)
        with autocast(precision, policy.model.device.type):
            logprobs = answer_logprobs(policy.model, packed)
        for i, row in zip(batch, logprobs.double().tolist(), strict=True):
            result[i] = row[: len(groups[i].answers_ids)]
    return [result[i] for i in range(len(groups))]


def write_groups(path: Path, groups: Sequence[TokenGroup]) -> None:
    """Write groups as Parquet."""
    pq.write_table(pa.Table.from_pylist([asdict(g) for g in groups], schema=SCHEMA), path, compression="zstd")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read groups as the trainer's rows."""
    rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    return rows
