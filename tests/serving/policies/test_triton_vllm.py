"""The vLLM variant's constraint without vLLM: answers of the shipped model, masked and recorded from outside.

Mask and Record get only what vLLM would pass them: tokens, logits, and log-probabilities after the sampling settings.
Their record of an answer must be the in-process policy's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.models import resolve, write_policy_settings
from inference.policy import Policy
from inference.sampling import _distribution
from mechanism.errors import PolicyError
from mechanism.types import Ad, Candidate, Context
from serving.policies.model import folder_digest
from serving.policies.protocol import AdapterAbsent
from serving.policies.triton.vllm_marks import Mask, Record, UnloadedPolicies, policy_without_weights
from tests.support.adapters import random_adapter

TINY = Path(resolve("tiny"))
ADS = ("Acme Noise Headphones", "Acme Noise Earbuds", "Zephyr Fitness Tracker", "Lumen Desk Lamp")
CONTEXT = Context(
    "c",
    "Which headphones are good for noisy trains?",
    tuple(Candidate(Ad(f"A{i}", title, "", title.split()[0]), i * 200_000) for i, title in enumerate(ADS)),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load("tiny")


def replay(policy: Policy, answer: list[int], max_ads: int) -> tuple[Record, str]:
    """The answer's tokens as an engine would report them, each after model, mask, temperature, top-k and top-p."""
    shell, settings = policy_without_weights(TINY), policy.sampling
    mask = Mask(shell.vocabulary, CONTEXT, max_ads, settings.max_new_tokens)
    record, text = Record(shell.vocabulary, CONTEXT, max_ads), ""
    with torch.inference_mode():
        prompt = shell.prompt_ids(CONTEXT)
        logits_TV: Any = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :].float()
        for step, token in enumerate(answer):
            probabilities, order = _distribution(mask(answer[:step], logits_TV[step])[None], settings)
            columns = range(logits_TV.shape[1]) if order is None else order[0].tolist()
            likely = zip(columns, probabilities[0].double().log().tolist(), strict=True)
            record.take(token, {t: p for t, p in likely if p > -math.inf})
            text += record.text(last=step + 1 == len(answer))
    return record, text


@pytest.mark.parametrize("seed", range(6))
def test_an_answer_has_the_same_record_as_in_process(policy: Policy, seed: int) -> None:
    [[generation]] = policy.generate([CONTEXT], 1, seed, replace(policy.sampling, max_ads=2))
    record, text = replay(policy, policy.answer_ids(generation), 2)
    assert text == generation.answer.raw
    assert (tuple(record.tokens), record.finished) == (generation.token_ids, generation.finished)
    assert record.logprob == pytest.approx(generation.logprob, abs=1e-3)
    assert [c.chosen for c in record.choices] == [c.chosen for c in generation.choices]
    for mine, theirs in zip(record.choices, generation.choices, strict=True):
        assert mine.probabilities == pytest.approx(dict(theirs.probabilities), abs=1e-4)
        assert mine.exact == theirs.exact


def test_some_of_these_answers_hold_markers(policy: Policy) -> None:
    # otherwise the comparison above would prove little
    settings = replace(policy.sampling, max_ads=2)
    assert sum(bool(policy.generate([CONTEXT], 1, seed, settings)[0][0].choices) for seed in range(6)) >= 3


def test_without_ads_no_marker_can_be_opened(policy: Policy) -> None:
    shell = policy_without_weights(TINY)
    logits = Mask(shell.vocabulary, CONTEXT, 0, 96)([], torch.zeros(policy.model.config.vocab_size))
    assert all(logits[i] == -math.inf for i in shell.vocabulary.openers)
    assert (logits > -math.inf).any()


def test_an_engine_that_ignores_the_mask_is_an_error() -> None:
    shell = policy_without_weights(TINY)
    record, opener = Record(shell.vocabulary, CONTEXT, 2), min(shell.vocabulary.openers)
    record.take(opener, {opener: -0.1})
    with pytest.raises(PolicyError, match="logits processor"):
        record.take(opener, {opener: -0.1})


def test_an_adapter_has_settings_of_its_own_on_the_tokens_of_its_base(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to(TINY)
    folder = random_adapter(tmp_path / "made", 1)
    digest = folder_digest(folder)
    settings = replace(policy.settings, sampling=replace(policy.sampling, max_new_tokens=7))
    write_policy_settings(folder, settings)
    (tmp_path / "adapters").mkdir()
    folder.rename(tmp_path / "adapters" / digest[:12])
    policies = UnloadedPolicies(tmp_path / "weights")
    assert policies.of("").sampling == policy.sampling
    assert policies.of(digest).sampling == settings.sampling
    assert policies.of(digest).prompt_ids(CONTEXT) == policy.prompt_ids(CONTEXT)
    with pytest.raises(AdapterAbsent, match="adapter 000000000000 is not on this server"):
        policies.of("0" * 64)
    with pytest.raises(PolicyError, match="has weights"):
        policies.of(digest[:12] + "0" * 52)
