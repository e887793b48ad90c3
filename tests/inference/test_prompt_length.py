"""The brief prompt of every ad of the built-in world fits into the model that is trained on it."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from inference.models import resolve
from inference.sampling import SamplingSettings
from mechanism.prompt import PromptSettings, render_messages
from simulator.world import Query, World

WORLD = World(0, profiles=100)
SETTINGS = PromptSettings(instructions="brief", described=True)


def longest(queries: list[Query]) -> Query:
    return max(queries, key=lambda q: sum(len(text) for _, text in q.turns) + len(q.text))


@pytest.mark.parametrize("following", [False, True])
def test_all_ads_turns_and_an_answer_fit_into_the_positions_of_tiny(following: bool) -> None:
    folder = resolve("tiny")
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    query = longest([q for q in WORLD.train_queries if bool(q.turns) is following])
    context = WORLD.sample_context(query, np.random.default_rng(0), len(WORLD.ads))
    messages = render_messages(context, SETTINGS)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert config.max_position_embeddings == 2048
    assert len(prompt) + SamplingSettings().max_new_tokens < config.max_position_embeddings
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in prompt
