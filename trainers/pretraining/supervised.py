"""Supervised training on packed answers, for the base model's pretraining and the optional warm start.

The loss is the weighted mean negative log-likelihood of the answers' tokens; prompts are context only. The learning
rate warms up over a tenth of the steps and falls to zero along a cosine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inference.policy import Policy
from mechanism.errors import GuardError
from trainers.optimisation.packing import pack, token_logprobs
from trainers.optimisation.precision import autocast
from trainers.pretraining.corpus import Exercise, Learned

_MARKER = re.compile(r"(?<=@)([^@\[\]]+@\[)([^@\[\]]+\])")


@dataclass(frozen=True, slots=True)
class SupervisedSettings:
    """Optimiser settings.

    `steps` is the length of the schedule; mixed precision computes in bfloat16 where the processor is fast at it.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warm_up: float = 0.1
    clip: float = 1.0
    mixed_precision: bool = True


@dataclass(frozen=True, slots=True)
class TokenisedExercise:
    """Token ids of a prompt and of its answers, end token included, and the weights of their tokens in the loss.

    A token of weight 0 is read and not learned.
    """

    prompt_ids: Sequence[int]
    answers_ids: Sequence[Sequence[int]]
    weights: Sequence[Sequence[float]]

    @classmethod
    def of(cls, exercise: Exercise, policy: Policy) -> TokenisedExercise:
        """Tokenise with the policy's prompt and end token.

        The parts of an answer are tokenised apart, so a learned part must begin as inside a text (with its blank).
        """
        given = [policy.text_ids(g) for g in exercise.given] or [[] for _ in exercise.answers]
        own = [_tokens(answer, exercise.learned, policy) for answer in exercise.answers]
        return cls(
            policy.prompt_ids(exercise.context),
            [[*start, *ids] for start, (ids, _) in zip(given, own, strict=True)],
            [[False] * len(start) + learned for start, (_, learned) in zip(given, own, strict=True)],
        )


def _tokens(answer: str, parts: Learned, policy: Policy) -> tuple[list[int], list[bool]]:
    """Return the tokens of an answer and which of them are learned.

    Unless all are, the pieces are tokenised as the decoder writes them: a marker's body apart from what follows.
    """
    if parts == "all":
        ids = [*policy.text_ids(answer), policy.end_tokens[0]]
        return ids, [True] * len(ids)
    # text, title, id, text, title, id, ..., text
    pieces = _MARKER.split(answer)
    if parts in ("titles", "first title"):
        # Nothing after the last learned title contributes to the loss.
        pieces = pieces[: max(0, len(pieces) - 2) if parts == "titles" else 2]
    ids, learned = [], []
    for k, piece in enumerate(pieces):
        own = policy.text_ids(piece)
        ids += own
        learned += [k % 3 == 1 or (parts != "titles" and k % 3 == 0)] * len(own)
    return ([*ids, policy.end_tokens[0]], [*learned, True]) if parts == "words" else (ids, learned)


def train_supervised(
    model: Any,
    batches: Iterable[Sequence[TokenisedExercise]],
    settings: SupervisedSettings,
    progress: Callable[[int, float], None],
) -> float:
    """Train `model` in place and return the mean loss (nats per token) of the last tenth of the steps.

    Raises:
        GuardError: if the loss is not finite.
    """
    model.train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, settings))
    losses: list[float] = []
    for step, batch in enumerate(batches):
        if step >= settings.steps:
            break
        packed = pack(
            [e.prompt_ids for e in batch],
            [e.answers_ids for e in batch],
            [[[w > 0 for w in own] for own in e.weights] for e in batch],
        )
        weights_N = torch.tensor([w for e in batch for own in e.weights for w in own if w > 0], device=model.device)
        with autocast("auto" if settings.mixed_precision else "float32", model.device.type):
            loss = -(token_logprobs(model, packed.to(model.device)) * weights_N).sum() / weights_N.sum()
        if not torch.isfinite(loss):
            raise GuardError("nan", "the supervised loss is not finite; lower learning_rate", {"step": step})
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        progress(step + 1, losses[-1])
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _rate(step: int, settings: SupervisedSettings) -> float:
    warm = max(1, round(settings.steps * settings.warm_up))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, settings.steps - warm)))
