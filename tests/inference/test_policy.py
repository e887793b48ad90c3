"""Contexts in, generations out: seeds, order, streaming, damaged weights, and the shipped model."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.models import LoadedModel, resolve
from inference.policy import Policy
from mechanism.errors import PolicyError
from mechanism.types import Context, Generation

from .conftest import byte_tokenizer, make_context, random_policy

EMOJI = "Café in 東京 is 🏃🏽‍♀️ fast — naïve ß"


def streamed(policy: Policy, context: Context, seed: int) -> tuple[list[str], Generation]:
    deltas: Generator[str, None, Generation] = policy.stream(context, seed)
    pieces: list[str] = []
    while True:
        try:
            pieces.append(next(deltas))
        except StopIteration as end:
            generation: Generation = end.value
            return pieces, generation


class Scripted:
    """A model with replaced logits: it writes the given tokens and then ends."""

    def __init__(self, policy: Policy, tokens: list[int]) -> None:
        self._model, self._script = policy.model, [*tokens, policy.end_tokens[0]]
        self._at = 0
        self.config, self.device = policy.model.config, policy.model.device
        self.generation_config = policy.model.generation_config

    def __call__(self, **inputs: Any) -> Any:
        out = self._model(**inputs)
        out.logits[:, -1] = -1e4
        out.logits[:, -1, self._script[self._at]] = 1e4
        self._at += 1
        return out


def scripted(policy: Policy, tokens: list[int]) -> Policy:
    sampling = replace(policy.sampling, max_new_tokens=len(tokens) + 1)
    return Policy(LoadedModel(Scripted(policy, tokens), policy.tokenizer, policy.prompt_settings, sampling))


def test_equal_arguments_give_equal_answers_and_other_seeds_others(worded: Policy) -> None:
    contexts = [make_context(name=str(i), query="Which shoes?" + " Please." * i) for i in range(3)]
    first, second, other = (worded.generate(contexts, 4, seed) for seed in (7, 7, 8))
    assert first == second
    assert first != other
    assert len({g.token_ids for own in first for g in own}) > 6  # samples of one context differ


def test_answers_come_in_the_order_of_the_contexts(worded: Policy) -> None:
    contexts = [make_context([t], query="Hm?" + " Well," * n) for t, n in (("Nest", 9), ("Oak", 0), ("Kestrel", 4))]
    for context, own in zip(contexts, worded.generate(contexts, 60, seed=0), strict=True):
        titles = {own.answer.text[i.start : i.end] for own in own for i in own.answer.insertions}
        assert titles == {context.candidates[0].ad.title}


def test_batches_of_bounded_size_hold_every_context_once(worded: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.policy.ROW_COLUMNS", 400)
    contexts = [make_context(["Nest"], query="Why?" * i, name=str(i)) for i in range(1, 8)]
    drawn = worded.generate(contexts, 2, seed=0)
    assert [len(own) for own in drawn] == [2] * 7


def test_no_contexts_no_answers(worded: Policy) -> None:
    assert worded.generate([], 3, seed=0) == []


@pytest.mark.parametrize("style", ["worded", "fused", "blanked"])
def test_the_pieces_of_a_stream_are_the_generation(request: pytest.FixtureRequest, style: str) -> None:
    policy: Policy = request.getfixturevalue(style)
    context, longest = make_context(["Nest", "Kestrel", "Oak & Elm"]), 0
    for seed in range(25):
        pieces, generation = streamed(policy, context, seed)
        assert "".join(pieces) == generation.answer.raw
        assert generation == policy.generate([context], 1, seed)[0][0]
        longest = max(longest, len(pieces))
    assert longest > 10


def test_multi_byte_characters_are_never_streamed_in_parts(worded: Policy) -> None:
    tokens = worded.tokenizer.encode(EMOJI, add_special_tokens=False)
    assert any("\ufffd" in worded.tokenizer.decode([t]) for t in tokens)
    pieces, generation = streamed(scripted(worded, tokens), make_context(), seed=0)
    assert generation.answer.raw == "".join(pieces) == EMOJI
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_a_character_cut_off_by_the_budget_is_shown_as_incomplete_only_at_the_end(worded: Policy) -> None:
    tokens = worded.tokenizer.encode("so 🏃", add_special_tokens=False)[:-1]
    pieces, generation = streamed(scripted(worded, tokens), make_context(), seed=0)
    assert "".join(pieces) == generation.answer.raw
    assert generation.answer.raw.startswith("so ")
    assert not any("\ufffd" in piece for piece in pieces[:-1])


def test_a_stream_may_be_closed_early(worded: Policy, context: Context) -> None:
    deltas = worded.stream(context, seed=1)
    next(deltas)
    deltas.close()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_weights_are_an_error(temperature: float) -> None:
    policy = random_policy(byte_tokenizer(words=True))
    policy.model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(PolicyError, match="not finite"):
        policy.generate([make_context()], 2, 0, replace(policy.sampling, temperature=temperature))


def test_a_model_without_an_end_token_is_refused() -> None:
    policy = random_policy(byte_tokenizer(words=True))
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    with pytest.raises(PolicyError, match="eos_token_id"):
        policy.generate([make_context()], 1, 0)


def test_a_saved_policy_loads_as_the_same_policy(worded: Policy, context: Context, tmp_path: Path) -> None:
    policy = random_policy(byte_tokenizer(words=True), seed=5)
    # The file layout has no bias on the head.
    policy.model.lm_head = torch.nn.Linear(32, policy.model.config.vocab_size, bias=False)
    policy.sampling = replace(policy.sampling, temperature=0.9, max_ads=2)
    policy.save(tmp_path / "m")
    loaded = Policy.load(str(tmp_path / "m"))
    assert loaded.digest == policy.digest != worded.digest
    assert (loaded.sampling, loaded.prompt_settings) == (policy.sampling, policy.prompt_settings)
    here, there = policy.model.device, loaded.model.device
    if here == there:
        assert loaded.generate([context], 3, 1) == policy.generate([context], 3, 1)


def test_the_shipped_model_answers_without_a_fault() -> None:
    if not Path(resolve("tiny")).is_dir():
        pytest.skip("the shipped model is missing")
    policy = Policy.load("tiny")
    drawn = policy.generate([make_context(["Kestrel Trail Shoes", "Oakbed Spring Mattress"])], 8, 0)[0]
    assert not any(g.answer.faults for g in drawn)
    assert any(len(g.answer.text) > 20 for g in drawn)
