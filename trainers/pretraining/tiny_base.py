"""Training of the shipped base model `tiny` on the built-in world's supervised corpus, and its acceptance test.

`llm-auction pretrain` runs it; the result is committed under `inference/models_data`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from inference.policy import Policy
from mechanism.errors import GuardError
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.pretraining.augmentation import Unfamiliar
from trainers.pretraining.bid_exercises import reading_accuracy, reading_exercise
from trainers.pretraining.corpus import answer_exercise, judged_fit
from trainers.pretraining.new_titles import NewTitles, shown_under_new_titles
from trainers.pretraining.supervised import SupervisedSettings, TokenisedExercise, train_supervised
from trainers.pretraining.tiny_model import Recipe, new_policy, train_tokenizer

READING_FIRST = 0.95
"""Share of bid exercises in the first part: heads that find bids form sooner when there is little else to learn."""
LATE_READING, LATE_FITTING, LATE_WHOLE = 0.1, 0.5, 0.4
LATE_PARTS = (
    Unfamiliar(titles=0.75, needs=0.25, unfiled=0.25, turns=0.12),
    Unfamiliar(titles=1.0, needs=0.25, unfiled=0.25, turns=0.12, whole=1.0),
)
"""The late parts. LATE_READING is their share of bid exercises; LATE_FITTING the share of the others whose answers show
relevant ads only; LATE_WHOLE the share of the rest that is learned whole and not for the titles only; LATE_PARTS the
augmentation of each part."""
NEW_AT_FIRST = Unfamiliar(titles=0.95, needs=0.4, unfiled=0.1, turns=0.0)
"""The first part's augmentation: while nearly every title is new, memorising titles does not pay."""


@dataclass(frozen=True, slots=True)
class LastPart:
    """One of the last parts: whole answers in the world's language, with shares of bid exercises and of fitting ads."""

    reading: float
    fitting: float
    unfamiliar: Unfamiliar


LAST_PARTS = (
    LastPart(0.12, 0.15, Unfamiliar(titles=0.6, needs=0.2, unfiled=0.2, turns=0.08)),
    LastPart(0.12, 0.30, Unfamiliar(titles=0.95, needs=0.2, unfiled=0.2, turns=0.08, whole=0.7)),
    LastPart(0.10, 0.40, Unfamiliar(titles=1.0, needs=0.2, unfiled=0.2, turns=0.08, whole=0.35)),
)
"""First the language, then new titles: all of a list's, and at last some beside known ones."""
JUDGED = 1400
"""Number of training queries whose fit to the ads is computed for the last part: encoding a query takes time."""
MEASURED = 200
"""Number of held-out contexts that a base is measured on."""
LONGEST, SHORT = 24, 4
"""Most ads in a list that is not wide, and at the very beginning: copying is learned sooner from short lists."""


def batches(world: World, policy: Policy, recipe: Recipe) -> Iterator[list[TokenisedExercise]]:
    """Yield batches without end; one with all ads in its prompts is smaller, so that steps cost about the same."""
    rng = np.random.default_rng([recipe.seed, 2])
    for step in itertools.count():
        grown = min(1.0, step / max(1.0, recipe.reading_first * recipe.steps))
        first = grown < 1.0
        reading, unfamiliar = (READING_FIRST, NEW_AT_FIRST) if first else (recipe.reading, recipe.unfamiliar)
        wide = not first and rng.random() < recipe.wide
        longest = SHORT + round(grown * (LONGEST - SHORT))
        candidates = len(world.ads) if wide else int(rng.integers(0, longest + 1))
        batch: list[TokenisedExercise] = []
        for _ in range(recipe.batch // 4 if wide else recipe.batch):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            if rng.random() < reading:
                exercise = reading_exercise(world, query, candidates, rng, unfamiliar)
            else:
                fit = judged_fit(world, query)
                exercise = answer_exercise(
                    world, query, candidates, recipe.answers, fit, rng, recipe.heeded, unfamiliar
                )
            batch.append(TokenisedExercise.of(exercise, policy))
        yield batch


@dataclass(frozen=True, slots=True)
class BaseQuality:
    """Quality of a base.

    Its final training loss (nats a token), its accuracy in bid exercises (share, questions) by kind on the world's
    titles and on new ones, and how often it shows an ad under a new title.
    """

    loss: float
    reading: dict[str, tuple[float, int]]
    reading_new: dict[str, tuple[float, int]]
    new_titles: NewTitles


def late_batches(world: World, policy: Policy, recipe: Recipe, part: int) -> Iterator[list[TokenisedExercise]]:
    """Yield batches of a late part without end: mostly answers, with mostly or only new titles."""
    unfamiliar = LATE_PARTS[part]
    rng = np.random.default_rng([recipe.seed, 4 + part])
    while True:
        candidates = int(rng.integers(1, LONGEST + 1))
        batch: list[TokenisedExercise] = []
        for _ in range(recipe.batch):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            if rng.random() < LATE_READING:
                whole, exercise = False, reading_exercise(world, query, candidates, rng, unfamiliar)
            elif rng.random() < LATE_FITTING:
                whole, fit = False, np.array([float(ad.category == query.category) for ad in world.ads])
                exercise = answer_exercise(
                    world, query, candidates, recipe.answers, fit, rng, 0.0, unfamiliar, only_fitting=True
                )
            else:
                fit, whole = judged_fit(world, query), rng.random() < LATE_WHOLE
                exercise = answer_exercise(
                    world, query, candidates, recipe.answers, fit, rng, recipe.heeded, unfamiliar
                )
            exercise = exercise if whole else replace(exercise, learned="titles")
            batch.append(TokenisedExercise.of(exercise, policy))
        yield batch


def last_batches(world: World, policy: Policy, recipe: Recipe, number: int) -> Iterator[list[TokenisedExercise]]:
    """Yield batches of a last part without end: answers as a sober assistant writes them."""
    part, rng = LAST_PARTS[number], np.random.default_rng([recipe.seed, 9 + number])
    order = np.random.default_rng([recipe.seed, 5]).permutation(len(world.train_queries))[:JUDGED]
    while True:
        candidates = int(rng.integers(1, LONGEST + 1))
        batch: list[TokenisedExercise] = []
        for _ in range(recipe.last_batch):
            query = world.train_queries[order[rng.integers(len(order))]]
            kind = rng.random()
            if kind < part.reading:
                exercise = reading_exercise(world, query, candidates, rng, part.unfamiliar)
            elif kind < part.reading + part.fitting:
                fit = np.array([float(ad.category in (query.category, query.also)) for ad in world.ads])
                exercise = answer_exercise(
                    world, query, candidates, recipe.answers, fit, rng, 0.0, part.unfamiliar, only_fitting=True
                )
                exercise = replace(exercise, learned="titles")
            else:
                fit = judged_fit(world, query)
                exercise = answer_exercise(
                    world, query, candidates, recipe.answers, fit, rng, recipe.heeded, part.unfamiliar
                )
            batch.append(TokenisedExercise.of(exercise, policy))
        yield batch


def train_tiny_base(
    recipe: Recipe, report: Callable[[str], None], progress: Callable[[int, float], None], start: Policy | None = None
) -> tuple[Policy, BaseQuality]:
    """Run the recipe and return the policy and its quality; with `start`, run its last parts on that policy.

    GuardError for a base that cannot read bids, because IRPO would have nothing to strengthen, and for one that does
    not copy new titles, because no advertiser could book a new campaign.
    """
    world = World(recipe.seed)
    policy = _train_reading(world, recipe, report, progress) if start is None else start
    done_before, loss = 0 if start is not None else recipe.steps + sum(recipe.late_steps), 0.0
    for number, (steps, rate) in enumerate(zip(recipe.last_steps, recipe.last_learning_rates, strict=True)):
        report("whole answers")
        loss = train_supervised(
            policy.model,
            last_batches(world, policy, recipe, number),
            SupervisedSettings(steps, rate, warm_up=0.05),
            lambda done, now, before=done_before: progress(before + done, now),  # type: ignore[misc]
        )
        done_before += steps
    report("measuring")
    quality = measure_base(policy, world, loss)
    check_base(quality, recipe)
    return policy, quality


def _train_reading(
    world: World, recipe: Recipe, report: Callable[[str], None], progress: Callable[[int, float], None]
) -> Policy:
    """Train a new policy to read offers and bids, and to copy titles that it has not seen."""
    report("training the tokenizer")
    policy = new_policy(train_tokenizer(world, recipe), recipe)
    settings = SupervisedSettings(recipe.steps, recipe.learning_rate, warm_up=recipe.warm_up)
    report(f"{sum(p.numel() for p in policy.model.parameters()):,} parameters, {recipe.steps} steps")
    train_supervised(policy.model, batches(world, policy, recipe), settings, progress)
    done_before = recipe.steps
    for part, steps in enumerate(recipe.late_steps):
        report("answers with new titles")
        train_supervised(
            policy.model,
            late_batches(world, policy, recipe, part),
            SupervisedSettings(steps, recipe.late_learning_rate),
            lambda done, now, before=done_before: progress(before + done, now),  # type: ignore[misc]
        )
        done_before += steps
        if part == 0:
            before_last = {name: w.detach().clone() for name, w in policy.model.state_dict().items()}
    share = recipe.last_share
    policy.model.load_state_dict(
        {n: (1 - share) * before_last[n] + share * w for n, w in policy.model.state_dict().items()}
    )
    return policy


def measure_base(policy: Policy, world: World, loss: float) -> BaseQuality:
    """Measure a base on held-out users' lists of 20 ads."""
    rng = np.random.default_rng(11)
    contexts = [world.sample_context(q, rng, 20) for q in world.test_queries[:MEASURED]]
    return BaseQuality(
        loss,
        reading_accuracy(policy, world, 20, MEASURED),
        reading_accuracy(policy, world, 20, MEASURED, new_titles=True),
        shown_under_new_titles(policy, contexts, ClickModel(), 0),
    )


def check_base(quality: BaseQuality, recipe: Recipe) -> None:
    """Check a base against the recipe's limits.

    Raises:
        GuardError: if it is below one.
    """
    for reading, titles in ((quality.reading, "known"), (quality.reading_new, "new")):
        share, _ = reading["highest for a need"]
        least = recipe.least_accuracy if titles == "known" else recipe.least_accuracy_new
        if share < least:
            raise GuardError(
                "reading",
                f"under {titles} titles the base names the highest bid for a need too seldom to be trained by IRPO; "
                "take more steps",
                {"accuracy": share, "least_accuracy": least},
            )
    shown = quality.new_titles
    if shown.ratio is None or shown.ratio.mean < recipe.least_new_titles:
        raise GuardError(
            "new_titles",
            "the base hardly shows an offer whose title is new to it; take more steps, or more unfamiliar contexts",
            {"known": shown.known, "new": shown.new, "least": recipe.least_new_titles},
        )
