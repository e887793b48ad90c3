"""The recipe of the shipped base model `tiny`: a byte-pair tokenizer and a small Llama, trained on the built-in
world's supervised corpus. Run it with `llm-auction pretrain`; the result is committed under `inference/models_data`.
"""

from __future__ import annotations

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
from mechanism.prompt import PromptSettings, render_messages
from mechanism.types import Context
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.corpus import answer_exercise, reading_exercise
from trainers.supervised import SupervisedSettings, TokenisedExercise, train_supervised

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Size and schedule. `wide` is the share of prompts that hold every ad of the world, as the paper's do."""

    seed: int = 0
    vocabulary: int = 3072
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    steps: int = 2200
    batch: int = 16
    answers: int = 4
    learning_rate: float = 2e-3
    wide: float = 0.06
    reading: float = 0.25


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
    # untruncated: every candidate keeps a propensity, and the allocation has no steps in the bids
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=120)
    return Policy(LoadedModel(model, tokenizer, PromptSettings(instructions="brief"), sampling))


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
    while True:
        wide = rng.random() < recipe.wide
        candidates = len(world.ads) if wide else int(rng.integers(1, 25))
        batch: list[TokenisedExercise] = []
        for _ in range(recipe.batch // 4 if wide else recipe.batch):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            if rng.random() < recipe.reading:
                exercise = reading_exercise(world, query, candidates, rng)
            else:
                exercise = answer_exercise(world, query, candidates, recipe.answers, relevance[query.id], rng)
            encode = policy.tokenizer.encode
            ids = [[*encode(a, add_special_tokens=False), policy.end_tokens[0]] for a in exercise.answers]
            batch.append((policy.prompt_ids(exercise.context), ids))
        yield batch


def train_tiny_base(
    recipe: Recipe, say: Callable[[str], None], progress: Callable[[int, float], None]
) -> tuple[Policy, float]:
    """Runs the recipe; returns the policy and its final training loss (nats per answer token)."""
    world = World(recipe.seed)
    say("training the tokenizer")
    policy = new_policy(train_tokenizer(world, recipe), recipe)
    relevance = all_relevance(world, say)
    settings = SupervisedSettings(recipe.steps, recipe.learning_rate)
    say(f"{sum(p.numel() for p in policy.model.parameters()):,} parameters, {recipe.steps} steps")
    loss = train_supervised(policy.model, batches(world, policy, relevance, recipe), settings, progress)
    return policy, loss
