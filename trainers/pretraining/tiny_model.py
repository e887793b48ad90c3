"""The base model `tiny` before its training: its recipe, its tokenizer, and the initialisation of its weights.

Its training is left to `trainers.pretraining.tiny_base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.models import LoadedModel
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.prompt import PromptSettings, render_messages
from simulator.world import World
from trainers.pretraining.augmentation import Unfamiliar
from trainers.pretraining.bid_exercises import reading_exercise
from trainers.pretraining.corpus import HEEDED, answer_exercise

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPT = PromptSettings(instructions="brief", described=True)
EMBEDDED, SHARP, ALIKE, COPIED, TURNS = 0.1, 1.4, 0.6, 0.2, 6
"""Initialisation: scale of the embeddings, of attention by distance, of attention by similarity, and of copying; and
the number of a head's fastest rotations that distinguish distances."""
WHOLE = 30
"""Repetitions of the world's texts in the tokenizer's corpus, so that their words win over pieces of invented ones."""
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Size and schedule.

    `wide`: share of prompts with every ad of the world, as in the paper. `reading`: share of bid exercises after the
    first `reading_first` of the `steps`, which are almost nothing else. `late_steps`: further steps in two parts with
    their own schedules, on answers whose ads mostly, then all, have new titles; the weights after both parts are
    averaged (`last_share` of the second), because the first alone prefers known titles and the second new ones.
    `last_steps`: whole answers, the way the base speaks; these parts alone can be repeated on an existing base.
    `heeded`, `unfamiliar`: see `trainers.pretraining.corpus`. A base that names the highest bid for a need in less than
    `least_accuracy` of the questions (`least_accuracy_new` with new titles) is refused, and one that shows an ad under
    a new title less than `least_new_titles` times as often as under its own.
    """

    seed: int = 0
    vocabulary: int = 3584
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    steps: int = 2200
    batch: int = 16
    answers: int = 4
    learning_rate: float = 3e-3
    warm_up: float = 0.04
    late_steps: tuple[int, int] = (450, 300)
    late_learning_rate: float = 1.5e-3
    last_share: float = 0.6
    last_steps: tuple[int, ...] = (270, 120, 130)
    last_learning_rates: tuple[float, ...] = (1.3e-3, 9e-4, 8e-4)
    last_batch: int = 14
    wide: float = 0.06
    reading_first: float = 0.4
    reading: float = 0.25
    heeded: float = HEEDED
    unfamiliar: Unfamiliar = field(default_factory=Unfamiliar)
    least_accuracy: float = 0.7
    least_accuracy_new: float = 0.5
    least_new_titles: float = 0.5


def train_tokenizer(world: World, recipe: Recipe, exercises: int = 3000) -> Any:
    """Train a byte-level BPE tokenizer on the world's texts.

    Any text can be encoded, the world's words are whole, and the rest of the vocabulary are pieces of invented names.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    settings = PROMPT

    def texts() -> Iterator[str]:
        for category in world.categories:
            own = (*category.advice, *(ad.text for ad in category.ads), *(ad.title for ad in category.ads))
            yield from (*own, *(f" {text}" for text in own)) * WHOLE
        for number in range(exercises):
            query = world.train_queries[rng.integers(len(world.train_queries))]
            exercise = (
                reading_exercise(world, query, 20, rng, recipe.unfamiliar)
                if number % 4 == 0
                else answer_exercise(world, query, 20, 2, None, rng, unfamiliar=recipe.unfamiliar)
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
    # A bid and its "@" in one token, right before the title: a small model has to attend one step back only.
    points = PromptSettings().max_points
    fast.add_tokens([AddedToken(f" {bid}@", normalized=False) for bid in range(points + 1)])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_policy(tokenizer: Any, recipe: Recipe) -> Policy:
    """Return an untrained model of the recipe's size with the tiny model's prompt and sampling settings."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.feed_forward,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    _begin_attention(model)
    _order_bids(model, tokenizer)
    # The paper's temperature, but untruncated: every candidate keeps a propensity, and bids have no step.
    sampling = SamplingSettings(temperature=0.7, top_p=1.0, top_k=0, max_new_tokens=120)
    return Policy(LoadedModel(model, tokenizer, PROMPT, sampling))


@torch.no_grad()
def _order_bids(model: Any, tokenizer: Any) -> None:
    """Initialise the bids' embeddings on a line with waves along it, in place of 101 unrelated points.

    A large model knows numbers from its pretraining; this corpus is too small to learn their order by comparison.
    """
    bids = torch.tensor([tokenizer.convert_tokens_to_ids(f" {bid}@") for bid in range(PromptSettings().max_points + 1)])
    height_N = torch.linspace(-1.7, 1.7, len(bids))
    waves = [f(k * height_N) for k in (1.0, 2.0, 4.0) for f in (torch.sin, torch.cos)]
    features_NF = torch.stack([torch.ones_like(height_N), 2.0 * height_N, *(0.5 * w for w in waves)], dim=1)
    table_VD = model.get_input_embeddings().weight
    begun_FD = torch.randn(features_NF.shape[1], table_VD.shape[1]) * EMBEDDED
    table_VD[bids, 1:] = (features_NF @ begun_FD)[:, 1:]


@torch.no_grad()
def _begin_attention(model: Any) -> None:
    """Initialise attention with the induction circuits that any pretrained model has.

    The first layer's heads attend one, two and three tokens back (a need and a bid precede a title) and each writes
    what it reads to its part of the residual stream; heads of later layers attend to tokens that resemble that part and
    copy them. From the usual initialisation an unseen title was not copied after 600 steps.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    half = width // heads // 2
    table_VD = model.get_input_embeddings().weight
    table_VD.normal_(std=EMBEDDED)
    # The same for every token, so that a head can attend by distance and not by content.
    table_VD[:, 0] = 5 * EMBEDDED
    turns_F = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    turns_F = turns_F[: min(half, TURNS)]
    parts_DD = torch.nn.init.orthogonal_(torch.empty(width, width))
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        if number == 0:
            for distance in range(1, heads):
                rows = slice((distance - 1) * 2 * half, distance * 2 * half)
                query, key = torch.zeros(2 * half), torch.zeros(2 * half)
                query[: len(turns_F)] = SHARP
                key[: len(turns_F)] = SHARP * (distance * turns_F).cos()
                key[half : half + len(turns_F)] = SHARP * (distance * turns_F).sin()
                for projection, seen in ((attention.q_proj, query), (attention.k_proj, key)):
                    projection.weight[rows] *= 0.3
                    projection.weight[rows, 0] = seen
            seen_DD = parts_DD
        else:
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.copy_(ALIKE * parts_DD)
                projection.weight[:, 0] = 0
            seen_DD = torch.nn.init.orthogonal_(torch.empty(width, width))
        attention.v_proj.weight.copy_(seen_DD)
        attention.o_proj.weight.copy_(COPIED * seen_DD.T)
