"""The marker constraint in training: which tokens compete with each token that the policy decided.

Answers are drawn from the constrained, renormalised distribution (`inference.sampling`). Preference optimisation has to
compare the same probabilities: over the full vocabulary the loss could fall by moving mass among tokens that decoding
masks anyway. They equal those of `inference.scoring.score` at temperature 1 without truncation, the settings that the
shipped configuration samples its rollouts with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inference.constraint import MarkerConstraint
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.types import Context, Generation

Pair = list[int]
"""[position of a token in its answer, a token that competes or may not compete with it]."""


@dataclass(frozen=True, slots=True)
class AnswerRestrictions:
    """The constraint along one answer of T tokens.

    `decided` (T,): False where the trie allowed one token only, so that the policy decided nothing. `allowed`: at forks
    of the trie, all tokens that compete. `closed`: positions outside of markers where none may open. `barred`: outside
    of markers, other tokens that may not follow at that position, apart from those that may never (`forbidden_tokens`).
    """

    decided: list[bool]
    allowed: list[Pair]
    barred: list[Pair]
    closed: list[int]


@dataclass(frozen=True, slots=True)
class Restrictions:
    """The constraint along the answers to one prompt.

    `forbidden` tokens never follow outside of markers, `openers` not at closed positions; the rest is by answer. Closed
    positions are kept apart from `barred` because a vocabulary has a hundred openers.
    """

    forbidden: Sequence[int]
    openers: Sequence[int]
    allowed: Sequence[Sequence[Pair]]
    barred: Sequence[Sequence[Pair]]
    closed: Sequence[Sequence[int]]

    def barred_pairs(self, answer: int) -> list[Pair]:
        """Return all (position, token) that may not follow in an answer, apart from the forbidden tokens."""
        return [*self.barred[answer], *([at, token] for at in self.closed[answer] for token in self.openers)]


def unrestricted(length: int) -> AnswerRestrictions:
    """Return the restrictions of an answer in which each token was chosen from the whole vocabulary."""
    return AnswerRestrictions([True] * length, [], [], [])


def forbidden_tokens(policy: Policy, context: Context, settings: SamplingSettings) -> list[int]:
    """Return the tokens that never follow outside of markers in answers to a context."""
    if not settings.constrained:
        return []
    vocabulary = policy.vocabulary
    return sorted({*vocabulary.forbidden, *vocabulary.fused([c.ad.id for c in context.candidates])})


def restrictions_of(
    policy: Policy, context: Context, generation: Generation, settings: SamplingSettings
) -> AnswerRestrictions | None:
    """Replay the constraint over an answer; return None where a sampler with these settings cannot write it."""
    ids, vocabulary = policy.answer_ids(generation), policy.vocabulary
    if not settings.constrained:
        return unrestricted(len(ids))
    forbidden = frozenset(forbidden_tokens(policy, context, settings))
    constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), settings.max_ads)
    found = unrestricted(0)
    for position, token in enumerate(ids):
        left = settings.max_new_tokens - position
        if left < 1:
            return None
        if constraint.inside:
            tokens = constraint.allowed()
            if token not in tokens:
                return None
            found.decided.append(len(tokens) > 1)
            if len(tokens) > 1:
                found.allowed.extend([position, other] for other in tokens)
        else:
            barred, closed = constraint.barred(), not constraint.may_open(left)
            if token in barred or token in forbidden or (closed and token in vocabulary.openers):
                return None
            found.decided.append(True)
            found.barred.extend([position, other] for other in sorted(barred - forbidden))
            if closed:
                found.closed.append(position)
        if token not in vocabulary.end_tokens:
            constraint.advance(token)
    return found


@dataclass(frozen=True, slots=True)
class Masks:
    """The restrictions of N predicted tokens as (row, token) indices into their logits (N, V).

    `barred_P2`: entries that are left out. `allowed_Q2`: in the rows that occur here, the only entries that compete.
    """

    barred_P2: torch.Tensor
    allowed_Q2: torch.Tensor

    def rows(self, start: int, end: int) -> Masks:
        """Return the masks of the rows from `start` up to `end`, counted from `start`."""

        def part(entries: torch.Tensor) -> torch.Tensor:
            inside = (entries[:, 0] >= start) & (entries[:, 0] < end)
            return entries[inside] - torch.tensor([start, 0], device=entries.device)

        return Masks(part(self.barred_P2), part(self.allowed_Q2))

    def apply(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Set all logits that do not compete to -inf, in place."""
        # A softmax gives such entries the gradient zero by itself, so autograd need not see, and copy, anything here.
        with torch.no_grad():
            kept = logits_NV[self.allowed_Q2.unbind(1)]
            logits_NV[self.barred_P2.unbind(1)] = -math.inf
            logits_NV[self.allowed_Q2[:, 0].unique()] = -math.inf
            logits_NV[self.allowed_Q2.unbind(1)] = kept
        return logits_NV


def masks_of(
    owner_T: torch.Tensor, forbidden_BM: torch.Tensor, barred_X2: torch.Tensor, allowed_Y2: torch.Tensor, answers: int
) -> Masks:
    """Return the masks of the tokens where `owner_T >= 0`, in order; see `packing.PackedBatch`.

    `answers` is the number of answers that `owner_T` counts for each prompt.
    """
    counted_N = (owner_T >= 0).nonzero()[:, 0]
    number_T = torch.full_like(owner_T, -1)
    number_T[counted_N] = torch.arange(len(counted_N), device=owner_T.device)

    def numbered(pairs_X2: torch.Tensor) -> torch.Tensor:
        entries = torch.stack([number_T[pairs_X2[:, 0]], pairs_X2[:, 1]], dim=1)
        return entries[entries[:, 0] >= 0]

    forbidden_NM = forbidden_BM[owner_T[counted_N] // answers]
    numbers, slots = (forbidden_NM >= 0).nonzero(as_tuple=True)
    everywhere = torch.stack([numbers, forbidden_NM[numbers, slots]], dim=1)
    return Masks(torch.cat([everywhere, numbered(barred_X2)]), numbered(allowed_Y2))
