"""The supervised warm start: a general instruction-following model learns to write short answers with insertions.

The model answers each query without seeing any ad; ads that are relevant by the frozen encoder, whatever they bid, are
inserted after a sentence; the result is what it learns to write. Where the imported data holds answers with ads, those
can be learned instead. This teaches the form only: which ad pays is left to IRPO.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inference.policy import Policy
from mechanism.errors import ConfigError
from mechanism.markers import render_marker
from mechanism.types import Candidate, Context
from simulator.imported_world import ImportedWorld
from simulator.language import FITTING, PLAIN
from trainers.irpo.session import Session
from trainers.pretraining.corpus import Exercise, context_fit
from trainers.pretraining.supervised import SupervisedSettings, TokenisedExercise, train_supervised

TEMPERATURE = 0.2
AD_COUNT = (0.15, 0.35, 0.3, 0.2)


def train_warm_start(session: Session, folder: Path) -> float:
    """Train the base on answers with ads, save it to `folder`, and return the final loss (nats per token)."""
    config = session.config.warm_start
    assert config is not None
    contexts = session.contexts.training(config.contexts, 0, 10)
    policy = Policy.load(session.base)
    policy.prompt_settings = replace(policy.prompt_settings, instructions=config.instructions)
    policy.sampling = session.sampling(policy)
    rng = np.random.default_rng(session.seed(0, 11))
    if config.source == "native":
        found = native_exercises(session, contexts, policy)
    else:
        found = woven_exercises(session, contexts, rng)
    exercises = [TokenisedExercise.of(exercise, policy) for exercise in found]

    def batches() -> Iterator[list[TokenisedExercise]]:
        size = min(config.batch, len(exercises))
        while True:
            order = rng.permutation(len(exercises))
            for start in range(0, len(order) - size + 1, size):
                yield [exercises[i] for i in order[start : start + size]]

    settings = SupervisedSettings(config.steps, config.learning_rate)
    loss = train_supervised(
        policy.model, batches(), settings, lambda step, now: session.progress.step(step, config.steps, now)
    )
    policy.save(folder)
    return loss


def native_exercises(session: Session, contexts: Sequence[Context], policy: Policy) -> list[Exercise]:
    """Return for each context the best answers of the data set whose ad is a candidate and that the run could sample.

    Raises:
        ConfigError: if no answer is short enough for the run's sampling.
    """
    config, world = session.config.warm_start, session.world
    assert config is not None
    assert isinstance(world, ImportedWorld)
    longest = policy.sampling.max_new_tokens
    exercises, long = [], 0
    for context in contexts:
        candidates = {None, *(c.ad.id for c in context.candidates)}
        held = [a.text for a in world.answers.get(context.id, ()) if a.ad in candidates]
        # A longer answer would teach the model to be cut off.
        fitting = [text for text in held if len(policy.text_ids(text)) < longest]
        long += len(held) - len(fitting)
        if fitting:
            exercises.append(Exercise(context, tuple(fitting[: config.answers])))
    session.progress.report(f"{len(exercises)} contexts with answers of the data set; {long} answers are too long")
    if not exercises:
        remedy = f"none of the {len(contexts)} contexts has an answer of fewer tokens: raise it, or use source woven"
        raise ConfigError("rollout.max_new_tokens", longest, remedy)
    return exercises


def woven_exercises(session: Session, contexts: Sequence[Context], rng: np.random.Generator) -> list[Exercise]:
    """Let the base model answer each context without ads, and insert sentences about its candidates.

    Raises:
        ConfigError: if no answer has a whole sentence.
    """
    config = session.config.warm_start
    assert config is not None
    writer = Policy.load(session.base, session.sampling_dtype)
    session.progress.report(f"writing {config.contexts * config.answers} plain answers")
    sampling = session.sampling(writer)
    bare = [replace(c, candidates=()) for c in contexts]
    plain = writer.generate(bare, config.answers, session.seed(0, 10), sampling)
    exercises = []
    for context, own in zip(contexts, plain, strict=True):
        fit = context_fit(context, [c.ad for c in context.candidates])
        texts = [weave(sentences_of(g.answer.text), context, fit, rng) for g in own]
        written = tuple(t for t in texts if t)
        if written:
            exercises.append(Exercise(context, written))
    if not exercises:
        remedy = "no plain answer of the base has a whole sentence within it: raise it, or take another base"
        raise ConfigError("rollout.max_new_tokens", sampling.max_new_tokens, remedy)
    return exercises


def sentences_of(text: str, most: int = 3) -> list[str]:
    """Return the first whole sentences of a plain answer, without an unfinished last one."""
    flat = " ".join(text.split())
    pieces = flat.replace("! ", ". ").replace("? ", ". ").split(". ")
    whole = [p.strip().rstrip(".") + "." for p in (pieces if flat.endswith((".", "!", "?")) else pieces[:-1])]
    return [p for p in whole if len(p.split()) > 3][:most]


def weave(
    sentences: list[str], context: Context, fit: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator
) -> str:
    """Insert a sentence for each chosen ad after a random sentence; return "" where there is no sentence."""
    if not sentences:
        return ""
    chosen: list[Candidate] = []
    left = list(range(len(context.candidates)))
    for _ in range(int(rng.choice(len(AD_COUNT), p=AD_COUNT))):
        weights = np.exp((fit[left] - fit[left].max()) / TEMPERATURE)
        chosen.append(context.candidates[left.pop(int(rng.choice(len(left), p=weights / weights.sum())))])
    body = list(sentences)
    for candidate in chosen:
        templates = FITTING if rng.random() < 0.4 else PLAIN
        template = templates[rng.integers(len(templates))]
        about = context.query.strip(" ?.!")
        sentence = template.format(need="offers", aspect=about, ad=render_marker(candidate.ad))
        body.insert(int(rng.integers(1, len(body) + 1)), sentence[0].upper() + sentence[1:])
    return " ".join(body)
