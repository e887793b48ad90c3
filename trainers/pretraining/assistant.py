"""How the shipped `assistant` is made: a LoRA adapter that teaches SmolLM2-135M to answer briefly and mention offers.

Supervised only, on the project's own everyday questions and answers (`everyday`); IRPO goes on from here. Two places of
an answer decide what the auction does and are a small part of its tokens, so they weigh more: where the plain part has
ended (mention an offer or stop), and where a title begins (which offer). The offers of a lesson are encoded once for
its questions (`optimisation.packing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Final

import numpy as np

from inference.adapters import AdapterSettings, add_adapter
from inference.models import LoadedModel, load_model
from inference.packaged import SMOLLM2
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.prompt import PromptSettings, render_messages
from mechanism.types import Ad
from simulator.questions import split_questions
from trainers.pretraining.everyday import Lesson, lessons
from trainers.pretraining.supervised import SupervisedSettings, TokenisedExercise, train_supervised

OPENER: Final = "†"
"""Opens a marker in place of "@", so that e-mail addresses, handles and decorators stay ordinary text."""
PROMPT: Final = PromptSettings(instructions="short")
SAMPLING: Final = SamplingSettings(temperature=0.3, top_p=1.0, top_k=0, max_new_tokens=120, max_ads=2)


@dataclass(frozen=True, slots=True)
class AssistantRecipe:
    """Everything that the adapter depends on. `lessons` are drawn in all; one pass over the questions has 209.

    `decision_weight` is the weight in the loss of a token that decides about an offer; others have 1.
    """

    base: str = SMOLLM2
    seed: int = 0
    lessons: int = 418
    lessons_per_step: int = 1
    learning_rate: float = 4e-4
    decision_weight: float = 4.0
    adapter: AdapterSettings = field(default_factory=lambda: AdapterSettings(first_block=12))


def train_assistant(recipe: AssistantRecipe, report: Callable[[int, int, float], None]) -> tuple[Policy, float]:
    """Train the adapter and return the policy, its adapter apart from the base, and the final loss (nats a token).

    `report` is called with the step, the number of steps and the loss.
    """
    loaded = load_model(recipe.base)
    policy = Policy(LoadedModel(loaded.model, loaded.tokenizer, PROMPT, SAMPLING, OPENER))
    add_adapter(policy.model, recipe.adapter, recipe.base)
    training, _ = split_questions()
    rng = np.random.default_rng(recipe.seed)
    drawn = list(islice((lesson for _ in count() for lesson in lessons(training, rng)), recipe.lessons))
    steps = len(drawn) // recipe.lessons_per_step
    settings = SupervisedSettings(steps, recipe.learning_rate, weight_decay=0.0, warm_up=0.05)
    loss = train_supervised(
        policy.model,
        _batches(drawn, recipe, policy),
        settings,
        lambda step, now: report(step, steps, now),
    )
    return policy, loss


def _batches(drawn: Sequence[Lesson], recipe: AssistantRecipe, policy: Policy) -> Iterator[list[TokenisedExercise]]:
    size = recipe.lessons_per_step
    for start in range(0, len(drawn) - size + 1, size):
        yield [tokenised(lesson, policy, recipe.decision_weight) for lesson in drawn[start : start + size]]


def tokenised(lesson: Lesson, policy: Policy, decision_weight: float) -> TokenisedExercise:
    """Return a lesson with the system message as prompt; answers begin with their own turns, which are not learned."""
    shared = _shared_ids(lesson, policy)
    answers: list[list[int]] = []
    weights: list[list[float]] = []
    ads = [c.ad for c in lesson.candidates]
    for number, (question, raw) in enumerate(lesson.questions):
        asked = policy.prompt_ids(lesson.context(number))
        own = asked[len(shared) :]
        ids, learned = answer_ids(raw, len(policy.text_ids(question.answer)), ads, policy, decision_weight)
        answers.append([*own, *ids])
        weights.append([0.0] * len(own) + learned)
    return TokenisedExercise(shared, answers, weights)


def _shared_ids(lesson: Lesson, policy: Policy) -> list[int]:
    """Return the tokens that the prompts of a lesson have in common: those of the system message."""
    system = render_messages(lesson.context(0), policy.prompt_settings)[:1]
    ids = policy.tokenizer.apply_chat_template(system, add_generation_prompt=False, return_dict=True)["input_ids"]
    shared = [int(i) for i in ids]
    assert policy.prompt_ids(lesson.context(0))[: len(shared)] == shared
    return shared


def answer_ids(
    raw: str, plain: int, ads: Sequence[Ad], policy: Policy, decision_weight: float
) -> tuple[list[int], list[float]]:
    """Return the tokens of an answer with its end, and their weights in the loss; the first `plain` are its plain part.

    Not learned is a marker's id: the prompt does not show it, and the decoder's trie writes it.
    """
    ids = [*policy.text_ids(raw), policy.end_tokens[0]]
    weights = [1.0] * len(ids)
    weights[plain] = weights[-1] = decision_weight
    for ad in ads:
        body = list(policy.vocabulary.body(ad))
        for at in range(len(ids) - len(body)):
            if ids[at] in policy.vocabulary.openers and ids[at + 1 : at + 1 + len(body)] == body:
                title = len(policy.text_ids(ad.title))
                weights[at + 1] = decision_weight
                weights[at + 1 + title : at + 1 + len(body)] = [0.0] * (len(body) - title)
    return ids, weights
