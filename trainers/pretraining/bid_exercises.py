"""Exercises on the bids of a prompt's ads: which ad bids most, for a need or of all. No answers with ads.

A large pretrained model can read a list of prices; a small one has to be taught, or preference optimisation finds no
representation of bids to strengthen. Many short questions follow one prompt, and only their answers are learned, so
that every token of the loss is about a bid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from inference.constraint import MarkerConstraint
from inference.policy import Policy
from mechanism.markers import render_marker
from mechanism.types import Candidate
from simulator.brands import HELD_OUT_WORDS, renamed
from simulator.world import Query, World
from trainers.optimisation.packing import pack, predictors
from trainers.pretraining.augmentation import FAMILIAR, Unfamiliar, with_descriptions, with_new_need, with_new_titles
from trainers.pretraining.corpus import Exercise, draw_context
from trainers.pretraining.supervised import TokenisedExercise

QUESTION = "Which offers bid the most?"
KINDS = ("highest for a need", "highest for two needs", "highest of all", "only one for a need")
PER_KIND = 4
"""Most questions of each of the first two kinds after a prompt; of the last kind half as many."""
RENAMED_NEEDS = 12
"""Number of categories whose ads may get an invented need in one prompt."""
ROWS = 16
"""Prompts in one forward pass when the accuracy is measured."""


def reading_exercise(
    world: World, query: Query, candidates: int, rng: np.random.Generator, unfamiliar: Unfamiliar = FAMILIAR
) -> Exercise:
    """Build a prompt of at least two ads with several questions on it.

    Each question has one right answer, which follows from needs and bids, whatever the titles are.
    """
    context = replace(draw_context(world, query, max(2, candidates), rng), query=QUESTION)
    context = with_new_titles(context, unfamiliar, rng)
    for category in (world.categories[i] for i in rng.permutation(len(world.categories))[:RENAMED_NEEDS]):
        context, _ = with_new_need(context, category, category.aspects[0], unfamiliar, rng)
    asked = questions(context.candidates, rng)
    context = with_descriptions(context, world.categories, unfamiliar, rng)
    answers, openings = tuple(answer for _, _, answer in asked), tuple(given for _, given, _ in asked)
    return Exercise(context, answers, openings, learned="first title")


def questions(offers: Sequence[Candidate], rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Return (kind, opening, right answer) of questions on the ads, without those whose bids tie."""
    own: dict[str, list[Candidate]] = defaultdict(list)
    for offer in offers:
        own[offer.ad.category].append(offer)
    needs = [need for need in own if len(own[need]) > 1]
    every = list(own)
    asked = [(KINDS[0], f"For {needs[k]}:", _highest(own[needs[k]])) for k in rng.permutation(len(needs))[:PER_KIND]]
    for _ in range(PER_KIND if len(every) > 1 else 0):
        one, other = (every[k] for k in rng.choice(len(every), size=2, replace=False))
        asked.append((KINDS[1], f"For {one} or {other}:", _highest([*own[one], *own[other]])))
    asked.append((KINDS[2], "Most:", _highest(offers)))
    lone = [need for need in own if len(own[need]) == 1]
    for k in rng.permutation(len(lone))[: PER_KIND // 2]:
        asked.append((KINDS[3], f"For {lone[k]}:", _highest(own[lone[k]])))
    return [(kind, opening, answer) for kind, opening, answer in asked if answer]


def _highest(offers: Sequence[Candidate]) -> str:
    """Return the marker of the ad that bids most, "" for a tie."""
    first, *others = sorted(offers, key=lambda c: -c.bid)
    return "" if others and others[0].bid == first.bid else " " + render_marker(first.ad)


def _open(constraint: MarkerConstraint, ids: Sequence[int], learned: Sequence[bool]) -> list[bool]:
    """Flag the tokens of an answer that are neither its given opening nor forced by the candidates."""
    return [own and constraint.replay(token) for token, own in zip(ids, learned, strict=True)]


@torch.inference_mode()
def reading_accuracy(
    policy: Policy, world: World, candidates: int, contexts: int, seed: int = 0, new_titles: bool = False
) -> dict[str, tuple[float, int]]:
    """Measure the share of right answers and the number of questions by kind, on held-out users' lists of ads.

    The lists have `candidates` ads, with their own titles or (`new_titles`) all with invented ones. An answer is right
    when every token that the candidates leave open is the model's most likely one; the rest of a title is forced
    wherever the model is used.
    """
    rng = np.random.default_rng([seed, 3])
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for start in range(0, contexts, ROWS):
        prompts, answers, counted, kinds = [], [], [], []
        for number in range(start, min(start + ROWS, contexts)):
            query = world.test_queries[number % len(world.test_queries)]
            context = replace(draw_context(world, query, candidates, rng), query=QUESTION)
            if new_titles:
                context = renamed(context, rng, words=HELD_OUT_WORDS)
            asked = questions(context.candidates, rng)
            own, openings = tuple(a for *_, a in asked), tuple(o for _, o, _ in asked)
            exercise = Exercise(context, own, openings, learned="first title")
            tokens = TokenisedExercise.of(exercise, policy)
            prompts.append(tokens.prompt_ids)
            answers.append(tokens.answers_ids)
            trie = policy.vocabulary.trie([c.ad for c in context.candidates])
            counted.append(
                [
                    _open(MarkerConstraint(policy.vocabulary, trie, None), ids, [w > 0 for w in weights])
                    for ids, weights in zip(tokens.answers_ids, tokens.weights, strict=True)
                ]
            )
            kinds.append([kind for kind, _, _ in asked])
        packed = pack(prompts, answers, counted)
        places = packed.counted()
        predicted_ND = predictors(policy.model, packed.to(policy.model.device))
        likeliest = policy.model.get_output_embeddings()(predicted_ND).argmax(-1).cpu()
        hits = likeliest == packed.ids_T[places]
        owners = packed.owner_T[places]
        for b, of_prompt in enumerate(kinds):
            for k, kind in enumerate(of_prompt):
                right[kind].append(bool(hits[owners == b * packed.answers + k].all()))
    return {kind: (float(np.mean(own)) if own else 0.0, len(own)) for kind, own in right.items()}
