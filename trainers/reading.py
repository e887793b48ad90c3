"""Exercises on the list of offers: who bids more, and who bids most. They say nothing on what an answer should contain.

A large pretrained model can read a list of prices; a small one has to be taught, or preference optimisation finds no
notion of a bid that it could strengthen. Many short questions stand behind one prompt, and only their answers are
learned, so that every token of the loss is about a bid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from inference.policy import Policy
from mechanism.markers import render_marker
from mechanism.types import Candidate
from simulator.world import Query, World
from trainers.corpus import Exercise, draw_context
from trainers.packing import pack

QUESTION = "Which offers bid the most?"
KINDS = ("highest for a need", "highest for two needs", "highest of all")
PER_KIND = 4
"""How many questions of the first two kinds stand behind one prompt, where the offers allow."""
ROWS = 16
"""Prompts that are read at once when the accuracy is measured."""


def reading_exercise(world: World, query: Query, candidates: int, rng: np.random.Generator) -> Exercise:
    """One prompt of at least two offers with several questions on it; each has one right answer."""
    context = replace(draw_context(world, query, max(2, candidates), rng), query=QUESTION)
    asked = questions(context.candidates, rng)
    return Exercise(context, tuple(answer for _, _, answer in asked), tuple(given for _, given, _ in asked))


def questions(offers: Sequence[Candidate], rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(kind, opening, right answer) of questions on the offers. Where bids tie there is no question."""
    own: dict[str, list[Candidate]] = defaultdict(list)
    for offer in offers:
        own[offer.ad.category].append(offer)
    needs = [need for need in own if len(own[need]) > 1]
    every = list(own)
    asked = [
        (KINDS[0], f"For {needs[k]}:", _highest(own[needs[k]])) for k in rng.permutation(len(needs))[:PER_KIND]
    ]
    for _ in range(PER_KIND if len(every) > 1 else 0):
        one, other = (every[k] for k in rng.choice(len(every), size=2, replace=False))
        asked.append((KINDS[1], f"For {one} or {other}:", _highest([*own[one], *own[other]])))
    asked.append((KINDS[2], "Most:", _highest(offers)))
    return [(kind, opening, answer) for kind, opening, answer in asked if answer]


def _highest(offers: Sequence[Candidate]) -> str:
    """The marker of the offer that bids most, "" for a tie."""
    first, *others = sorted(offers, key=lambda c: -c.bid)
    return "" if others and others[0].bid == first.bid else " " + render_marker(first.ad)


@torch.inference_mode()
def reading_accuracy(
    policy: Policy, world: World, candidates: int, contexts: int, seed: int = 0
) -> dict[str, tuple[float, int]]:
    """Share of right answers and number of questions by kind, on held-out users' lists of `candidates` offers.

    An answer is right when every token of it is the model's most likely one.
    """
    rng = np.random.default_rng([seed, 3])
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for start in range(0, contexts, ROWS):
        prompts, answers, counted, kinds = [], [], [], []
        for number in range(start, min(start + ROWS, contexts)):
            query = world.test_queries[number % len(world.test_queries)]
            context = replace(draw_context(world, query, candidates, rng), query=QUESTION)
            asked = questions(context.candidates, rng)
            openings = [policy.text_ids(opening) for _, opening, _ in asked]
            prompts.append(policy.prompt_ids(context))
            own = [policy.text_ids(a) for _, _, a in asked]
            answers.append([[*o, *a] for o, a in zip(openings, own, strict=True)])
            counted.append([[False] * len(o) + [True] * len(a) for o, a in zip(openings, own, strict=True)])
            kinds.append([kind for kind, _, _ in asked])
        packed = pack(prompts, answers, counted)
        rows, columns = (packed.owner_BL >= 0).nonzero(as_tuple=True)
        logits_BLV = policy.model(**packed.to(policy.model.device).inputs()).logits
        likeliest = logits_BLV[rows, columns - 1].argmax(-1).cpu()
        hits = likeliest == packed.ids_BL[rows, columns]
        owners = packed.owner_BL[rows, columns]
        for b, of_prompt in enumerate(kinds):
            for k, kind in enumerate(of_prompt):
                right[kind].append(bool(hits[(rows == b) & (owners == k)].all()))
    return {kind: (float(np.mean(own)) if own else 0.0, len(own)) for kind, own in right.items()}
