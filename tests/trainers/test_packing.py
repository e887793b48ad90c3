"""Packed answers behind one prompt have the log-probabilities, and give the gradients, of separate passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, MistralForCausalLM

from mechanism.errors import PolicyError
from trainers.optimisation.packing import PackedBatch, add_packed_forward, answer_logprobs, pack
from trainers.optimisation.shared_prefix import Layout, attend

VOCABULARY = 31


def random_model(model_class: Any = LlamaForCausalLM, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = model_class.config_class(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **changes,
    )
    return model_class(config).eval()


def random_rows(seed: int, prompts: list[int], answers: list[list[int]]) -> tuple[list[Any], list[Any]]:
    """Token ids of the given lengths."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(2, VOCABULARY, size=n).tolist() for n in prompts]
    return ids, [[rng.integers(2, VOCABULARY, size=n).tolist() for n in own] for own in answers]


def separate_logprob(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """log pi(answer | prompt) by a forward pass of its own, without padding."""
    ids = torch.tensor([prompt + answer])
    logprobs: torch.Tensor = model(input_ids=ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(answer)[:, None]).sum()


SHAPES = [
    ([7], [[5]]),
    ([1], [[3, 1]]),
    ([9, 2], [[4, 4], [1, 6]]),
    ([12, 5, 1], [[2, 9, 1], [3], [1, 1, 1, 1, 8]]),
    ([40, 3], [[17, 2, 11, 5, 9], [1, 30]]),
]


@pytest.mark.parametrize(("prompts", "answers"), SHAPES)
def test_log_probabilities_are_those_of_separate_passes(prompts: list[int], answers: list[list[int]]) -> None:
    model = random_model()
    ids, own = random_rows(len(prompts), prompts, answers)
    packed = answer_logprobs(model, pack(ids, own))
    assert packed.shape == (len(ids), max(len(a) for a in own))
    for b, prompt in enumerate(ids):
        expected = [separate_logprob(model, prompt, a).item() for a in own[b]]
        assert packed[b, : len(expected)].tolist() == pytest.approx(expected, abs=2e-4)
        assert (packed[b, len(expected) :] == 0).all()


def test_gradients_are_those_of_separate_passes() -> None:
    model = random_model()
    prompts, answers = random_rows(3, [11, 4], [[3, 8, 1], [6, 2]])
    weights = torch.tensor([[1.0, -0.7, 0.3], [-2.0, 0.5, 0.0]])
    (weights * answer_logprobs(model, pack(prompts, answers))).sum().backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total = sum(
        weights[b, k] * separate_logprob(model, prompts[b], answer)
        for b in range(len(prompts))
        for k, answer in enumerate(answers[b])
    )
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert len(packed) > 10
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-5 * max(1.0, scale), rtol=1e-3)


def test_an_answer_is_blind_to_its_neighbours_and_to_the_batch() -> None:
    model = random_model(seed=1)
    prompts, answers = random_rows(5, [10, 25], [[4, 6], [9, 3, 2]])
    alone = answer_logprobs(model, pack(prompts[:1], [answers[0][1:]]))
    together = answer_logprobs(model, pack(prompts, answers))
    assert together[0, 1].item() == pytest.approx(alone[0, 0].item(), abs=2e-4)


def test_a_model_samples_as_before_after_it_took_packed_answers() -> None:
    model, ids = random_model(seed=3), torch.tensor([[4, 9, 2, 7]])
    before = model(input_ids=ids).logits
    answer_logprobs(model, pack(*random_rows(1, [6], [[3, 4]])))
    torch.testing.assert_close(model(input_ids=ids).logits, before, atol=0, rtol=0)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    prompts, answers = random_rows(3, [11, 4], [[3, 8, 1], [6, 2]])
    gradients = []
    for checkpointing in (False, True):
        model = random_model().train()
        add_packed_forward(model)
        if checkpointing:
            model.activation_checkpointing_enable()
        batch = pack(prompts, answers)
        model(packed=batch.tensors(), answers=batch.answers).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sliding_window_is_taken_as_long_as_it_holds_prompt_and_answer() -> None:
    prompts, answers = random_rows(1, [6], [[3, 4]])
    # Five tokens of the prompt in front; before each answer stands the sixth.
    wide = random_model(MistralForCausalLM, sliding_window=5 + 1 + 4)
    packed = answer_logprobs(wide, pack(prompts, answers))
    expected = [separate_logprob(wide, prompts[0], a).item() for a in answers[0]]
    assert packed[0].tolist() == pytest.approx(expected, abs=2e-4)
    narrow = random_model(MistralForCausalLM, sliding_window=9)
    with pytest.raises(PolicyError, match=r"10 tokens, the model's sliding window 9: lower world\.candidates"):
        answer_logprobs(narrow, pack(prompts, answers))


def test_an_attention_that_changes_its_scores_is_refused() -> None:
    query = torch.zeros(1, 4, 3, 8)
    layout = Layout(torch.tensor([[0]]), torch.tensor([[1, 2]]), torch.tensor([0]))
    with pytest.raises(PolicyError, match="softcap: train one with plain attention"):
        attend(None, query, query, query, None, layout=layout, softcap=30.0)


def test_packing_holds_the_prompt_once() -> None:
    prompts, answers = random_rows(7, [50], [[6, 6, 6, 6, 6]])
    batch = pack(prompts, answers)
    assert isinstance(batch, PackedBatch)
    assert batch.ids_T.shape == (49 + 5 * 7,)
    assert batch.answers == 5
    # every token's place is the one of a separate pass
    assert int(batch.positions_T.max()) == 50 + 6 - 1
    assert (batch.owner_T >= 0).sum() == 30


def test_tokens_that_do_not_count_are_seen_but_have_no_logprob() -> None:
    model = random_model(seed=2)
    prompts, answers = random_rows(9, [6, 3], [[5, 4], [7]])
    batch = pack(prompts, answers, [[[False] * 2 + [True] * 3, [True] * 4], [[True, False, False, False] + [True] * 3]])
    learned = answer_logprobs(model, batch)
    assert (batch.owner_T >= 0).sum() == 3 + 4 + 4
    rest = separate_logprob(model, prompts[0] + answers[0][0][:2], answers[0][0][2:])
    assert learned[0, 0].item() == pytest.approx(rest.item(), abs=2e-4)
    assert learned[0, 1].item() == pytest.approx(separate_logprob(model, prompts[0], answers[0][1]).item(), abs=2e-4)
