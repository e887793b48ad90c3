"""Preference groups as token ids, in memory and on disk.

A row is one context: its prompt, the winner and the losers, and their log-probabilities under the reference policy.
These are computed once beforehand, so that no second model is in memory while training (and ZeRO-3 needs no copy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from inference.policy import Policy
from mechanism.types import Context
from trainers.artifacts.sampled import Sampled
from trainers.optimisation.packing import answer_logprobs, pack
from trainers.optimisation.precision import Precision, autocast

SCHEMA = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("answers_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("decided", pa.list_(pa.list_(pa.bool_())), nullable=False),
        pa.field("reference_logprobs", pa.list_(pa.float64()), nullable=False),
    ],
    metadata={"format": "llm-auction preference groups, version 2; the first answer is the winner"},
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

    Prompt, answers (winner first), which of their tokens the policy decided, and the log-probabilities of those tokens
    under the reference, summed by answer, in nats.
    """

    prompt_ids: list[int]
    answers_ids: list[list[int]]
    decided: list[list[bool]]
    reference_logprobs: list[float]


def tokenise(
    policy: Policy, groups: Sequence[PreferenceGroup], sampled: Sequence[Sampled], *, whole: bool = False
) -> list[TokenGroup]:
    """Return the token ids of every group, without reference log-probabilities.

    Inside a marker of a constrained answer the tokens are forced as soon as no other candidate shares them. The policy
    does not decide them, so they are not part of its probability: counted, they would let the loss fall by making the
    spelling of a losing ad improbable, which changes nothing in what is sampled. `whole` counts them nevertheless.
    """
    result: list[TokenGroup] = []
    for g in groups:
        answers = [sampled[g.sample].generations[m] for m in (g.winner, *g.losers)]
        ids = [policy.answer_ids(a) for a in answers]
        decided = [
            [True] * len(own) if whole else policy.decided(g.context, a) for a, own in zip(answers, ids, strict=True)
        ]
        result.append(TokenGroup(policy.prompt_ids(g.context), ids, decided, []))
    return result


@torch.inference_mode()
def with_reference(
    reference: Policy, groups: Sequence[TokenGroup], *, precision: Precision = "auto"
) -> list[TokenGroup]:
    """Return the groups with log pi_ref of every answer, by shared-prefix passes over groups of similar length.

    `precision` is that of the training that follows.
    """
    sizes = [len(g.prompt_ids) + sum(len(a) + 1 for a in g.answers_ids) for g in groups]
    order = sorted(range(len(groups)), key=lambda i: sizes[i])
    result: dict[int, TokenGroup] = {}
    while order:
        count = max(1, TOKENS_PER_PASS // sizes[order[-1]])
        batch, order = order[-count:], order[:-count]
        own = [groups[i] for i in batch]
        packed = pack([g.prompt_ids for g in own], [g.answers_ids for g in own], [g.decided for g in own])
        with autocast(precision, reference.model.device.type):
            logprobs = answer_logprobs(reference.model, packed.to(reference.model.device))
        for i, row in zip(batch, logprobs.double().tolist(), strict=True):
            result[i] = replace(groups[i], reference_logprobs=row[: len(groups[i].answers_ids)])
    return [result[i] for i in range(len(groups))]


def write_groups(path: Path, groups: Sequence[TokenGroup]) -> None:
    """Write groups as Parquet."""
    pq.write_table(pa.Table.from_pylist([asdict(g) for g in groups], schema=SCHEMA), path, compression="zstd")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read groups as the trainer's rows."""
    rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    return rows
