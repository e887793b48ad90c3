"""The recipe of the shipped base model `tiny`: a byte-pair tokenizer and a small Llama, trained on the built-in
world's supervised corpus. Run it with `llm-auction pretrain`; the result is committed under `inference/models_data`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.models import LoadedModel
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.errors import GuardError
from mechanism.prompt import PromptSettings, render_messages
from mechanism.types import Context
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.corpus import HEEDED, answer_exercise
from trainers.reading import reading_accuracy, reading_exercise
from trainers.supervised import SupervisedSettings, TokenisedExercise, train_supervised

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
READING_FIRST = 0.95
"""Share of reading exercises in the first part: heads that find bids form sooner when there is little else to do."""
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Size and schedule. `wide` is the share of prompts that hold every ad of the world, as the paper's do; `reading`
    the share of exercises on the list of offers, after the share `reading_first` of the steps with hardly anything
    else; `heeded` as in `trainers.corpus`. A base that names the highest bid for a need in less than `least_accuracy`
    of the questions is refused."""

    seed: int = 0
    vocabulary: int = 3072
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    steps: int = 2600
    batch: int = 16
    answers: int = 4
    learning_rate: float = 2e-3
    wide: float = 0.06
    reading_first: float = 0.4
    reading: float = 0.25
    heeded: float = HEEDED
    least_accuracy: float = 0.8


def train_tokenizer(world: World, recipe: Recipe, exercises: int = 8000) -> Any:
    """A byte-level BPE tokenizer over the world's texts; any text can be encoded, the world's words are whole."""
    rng = np.random.default_rng([recipe.seed, 1])
    settings = PromptSettings(instructions="brief")

    def texts() -> Iterator[str]:
        for number in range(exercises):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            make = reading_exercise if number % 4 == 0 else None
            exercise = (
                make(world, query, 20, rng) if make else answer_exercise(world, query, 20, 2, None, rng)
            )
            for message in render_messages(exercise.context, settings):
                yield message["content"]
            yield from exercise.given
            yield from exercise.answers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", clean_up_tokenization_spaces=False
    )
    # A bid and its sign in one token, right before the title: one step back is all that a small model has to look.
    points = PromptSettings().max_points
    fast.add_tokens([AddedToken(f" {bid}@", normalized=False) for bid in range(points + 1)])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_policy(tokenizer: Any, recipe: Recipe) -> Policy:
    """An untrained model of the recipe's size with the tiny model's prompt and sampling settings."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.width, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads, intermediate_size=recipe.feed_forward,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    _order_bids(model, tokenizer)
    # the paper's temperature, but untruncated: every candidate keeps a propensity, and no step comes into the bids
    sampling = SamplingSettings(temperature=0.7, top_p=1.0, top_k=0, max_new_tokens=120)
    return Policy(LoadedModel(model, tokenizer, PromptSettings(instructions="brief"), sampling))


@torch.no_grad()
def _order_bids(model: Any, tokenizer: Any) -> None:
    """Begins the bids' embeddings on a line with some waves along it, in place of 101 unrelated points: a large model
    knows numbers from its pretraining, and the corpus is too small to find their order by comparison."""
    bids = torch.tensor([tokenizer.convert_tokens_to_ids(f" {bid}@") for bid in range(PromptSettings().max_points + 1)])
    height_N = torch.linspace(-1.7, 1.7, len(bids))
    waves = [f(k * height_N) for k in (1.0, 2.0, 4.0) for f in (torch.sin, torch.cos)]
    features_NF = torch.stack([torch.ones_like(height_N), 2.0 * height_N, *(0.5 * w for w in waves)], dim=1)
    table_VD = model.get_input_embeddings().weight
    table_VD[bids] = features_NF @ torch.randn(features_NF.shape[1], table_VD.shape[1]) * model.config.initializer_range


def all_relevance(world: World, progress: Callable[[str], None]) -> dict[str, NDArray[np.float64]]:
    """Relevance of every ad to every training query, by query id, each of shape (ads,)."""
    progress("encoding queries")
    clicks, ads = ClickModel(), list(world.ads)
    return {q.id: clicks.relevance(Context(q.id, q.text, (), q.profile), ads) for q in world.train_queries}


def batches(
    world: World, policy: Policy, relevance: dict[str, NDArray[np.float64]], recipe: Recipe
) -> Iterator[list[TokenisedExercise]]:
    """Endless batches; a batch with all ads in its prompts is smaller, so that every step costs about the same."""
    rng = np.random.default_rng([recipe.seed, 2])
    for step in itertools.count():
        reading = READING_FIRST if step < recipe.reading_first * recipe.steps else recipe.reading
        wide = rng.random() < recipe.wide
        candidates = len(world.ads) if wide else int(rng.integers(1, 25))
        batch: list[TokenisedExercise] = []
        for _ in range(recipe.batch // 4 if wide else recipe.batch):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            if rng.random() < reading:
                exercise = reading_exercise(world, query, candidates, rng)
            else:
                fit = relevance[query.id]
                exercise = answer_exercise(world, query, candidates, recipe.answers, fit, rng, recipe.heeded)
            batch.append(TokenisedExercise.of(exercise, policy))
        yield batch


def train_tiny_base(
    recipe: Recipe, say: Callable[[str], None], progress: Callable[[int, float], None]
) -> tuple[Policy, float, dict[str, tuple[float, int]]]:
    """Runs the recipe; returns the policy, its final training loss (nats per answer token) and its reading accuracy.

    Raises GuardError for a base that cannot read bids: IRPO would find nothing to strengthen.
    """
    world = World(recipe.seed)
    say("training the tokenizer")
    policy = new_policy(train_tokenizer(world, recipe), recipe)
    relevance = all_relevance(world, say)
    settings = SupervisedSettings(recipe.steps, recipe.learning_rate)
    say(f"{sum(p.numel() for p in policy.model.parameters()):,} parameters, {recipe.steps} steps")
    loss = train_supervised(policy.model, batches(world, policy, relevance, recipe), settings, progress)
    accuracy = reading_accuracy(policy, world, 20, 200)
    share, _ = accuracy["highest for a need"]
    if share < recipe.least_accuracy:
        raise GuardError(
            "reading",
            "the base names the highest bid for a need too seldom to be trained by IRPO; take more steps",
            {"accuracy": share, "least_accuracy": recipe.least_accuracy},
        )
    return policy, loss, accuracy
