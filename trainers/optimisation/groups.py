"""Preference groups as token ids: what one optimiser step reads, and how it lies on disk.

A row is one context: its prompt, the winner and the losers, and their log-probabilities under the reference policy,
computed once beforehand, so that no second model sits in memory while training (and ZeRO-3 needs no copy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from inference.policy import Policy
from trainers.packing import answer_logprobs, pack
from trainers.preferences import PreferenceGroup
from trainers.records import Sampled

SCHEMA = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("answers_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("reference_logprobs", pa.list_(pa.float64()), nullable=False),
    ],
    metadata={"format": "llm-auction preference groups, version 1; the first answer is the winner"},
)
TOKENS_PER_PASS = 12_000
"""Packed tokens that one reference pass may hold."""


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Prompt, answers (winner first) and the answers' log-probabilities under the reference, in nats."""

    prompt_ids: list[int]
    answers_ids: list[list[int]]
    reference_logprobs: list[float]


def tokenise(policy: Policy, groups: Sequence[PreferenceGroup], sampled: Sequence[Sampled]) -> list[TokenGroup]:
    """Token ids of every group; reference log-probabilities still missing (empty)."""
    return [
        TokenGroup(
            policy.prompt_ids(g.context),
            [policy.answer_ids(sampled[g.sample].generations[m]) for m in (g.winner, *g.losers)],
            [],
        )
        for g in groups
    ]


@torch.inference_mode()
def with_reference(reference: Policy, groups: Sequence[TokenGroup], *, precise: bool = False) -> list[TokenGroup]:
    """The groups with log pi_ref of every answer, by shared-prefix passes over groups of like length.

    Computes in bfloat16, or in the weights' own precision where `precise`: as the training that follows does.
    """
    sizes = [len(g.prompt_ids) + sum(len(a) + 1 for a in g.answers_ids) for g in groups]
    order = sorted(range(len(groups)), key=lambda i: sizes[i])
    result: dict[int, TokenGroup] = {}
    while order:
        count = max(1, TOKENS_PER_PASS // sizes[order[-1]])
        batch, order = order[-count:], order[:-count]
        packed = pack([groups[i].prompt_ids for i in batch], [groups[i].answers_ids for i in batch])
        with torch.autocast(reference.model.device.type, torch.bfloat16, enabled=not precise):
            logprobs = answer_logprobs(reference.model, packed.to(reference.model.device))
        for i, row in zip(batch, logprobs.double().tolist(), strict=True):
            g = groups[i]
            result[i] = TokenGroup(g.prompt_ids, g.answers_ids, row[: len(g.answers_ids)])
    return [result[i] for i in range(len(groups))]


def write_groups(path: Path, groups: Sequence[TokenGroup]) -> None:
    """Writes groups as Parquet."""
    rows: list[dict[str, Any]] = [
        {"prompt_ids": g.prompt_ids, "answers_ids": g.answers_ids, "reference_logprobs": g.reference_logprobs}
        for g in groups
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads groups as the trainer's rows."""
    rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    return rows
