"""Training compares the probabilities that answers were sampled with: renormalised under the marker constraint."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, score
from mechanism.errors import InputError
from mechanism.types import Context, Generation
from tests.inference.conftest import blank_tokenizer, byte_tokenizer, make_context, random_policy
from trainers.artifacts.sampled import Sampled
from trainers.optimisation.divergence import answer_divergences
from trainers.optimisation.groups import (
    PreferenceGroup,
    TokenGroup,
    pack_groups,
    token_group,
    tokenise,
    with_reference,
)
from trainers.optimisation.packing import answer_logprobs, token_logprobs
from trainers.optimisation.restrictions import restrictions_of

# `fused` tokens cross the parts of markers, so that many tokens are barred outside of markers.
STYLES = ("worded", "fused", "blanked")
CONTEXTS = [
    make_context(["Nest", "A1", "Kestrel", "Kestrel Shoes"]),
    make_context(["Nest", "Kestrel Shoes", "Kestrel"], query="Hi", name="two"),
]


@cache
def policy_of(style: str) -> Policy:
    tokenizer = blank_tokenizer() if style == "blanked" else byte_tokenizer(words=style == "worded")
    return random_policy(tokenizer)


def settings_of(**changes: Any) -> SamplingSettings:
    return replace(SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=32), **changes)


def groups_of(
    policy: Policy, settings: SamplingSettings, answers: list[list[Generation]], **options: Any
) -> list[TokenGroup]:
    rewards = [0.0] * len(answers[0])
    return [token_group(policy, c, own, rewards, settings, **options) for c, own in zip(CONTEXTS, answers, strict=True)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("changes", [{}, {"max_ads": 1}, {"max_new_tokens": 18}])
def test_log_probabilities_are_those_that_scoring_gives_and_sampling_recorded(
    style: str, changes: dict[str, Any]
) -> None:
    policy, settings = policy_of(style), settings_of(**changes)
    answers = policy.generate(CONTEXTS, 10, 3, settings)
    groups = with_reference(policy, groups_of(policy, settings, answers), precision="float32")
    scored = [score(Sampler(policy, settings), [c] * 10, own) for c, own in zip(CONTEXTS, answers, strict=True)]
    for group, own, expected in zip(groups, answers, scored, strict=True):
        assert group.reference_logprobs == pytest.approx([s.logprob for s in expected], abs=1e-3)
        assert group.reference_logprobs == pytest.approx([g.logprob for g in own], abs=1e-3)
    assert any(g.allowed[k] for g in groups for k in range(10))
    assert any(not all(decided) for g in groups for decided in g.decided)
    assert not changes or any(g.closed[k] for g in groups for k in range(10))


def test_moving_mass_among_masked_tokens_changes_nothing() -> None:
    policy = random_policy(byte_tokenizer(words=True), seed=5)
    settings = settings_of()
    answers = policy.generate(CONTEXTS, 6, 1, settings)
    groups = groups_of(policy, settings, answers)
    forbidden = set(groups[0].forbidden)
    chosen = {token for g in groups for own in g.answers_ids for token in own}
    competing = {token for g in groups for own in g.allowed for _, token in own}
    masked = sorted(forbidden - chosen - competing)
    assert masked
    before = with_reference(policy, groups, precision="float32")
    whole_before = with_reference(policy, groups_of(policy, settings, answers, whole=True), precision="float32")
    with torch.no_grad():
        policy.model.lm_head.bias[masked] += 7.0
    after = with_reference(policy, groups, precision="float32")
    whole_after = with_reference(policy, groups_of(policy, settings, answers, whole=True), precision="float32")
    for old, new in zip(before, after, strict=True):
        assert new.reference_logprobs == pytest.approx(old.reference_logprobs, abs=1e-3)
    # over the whole vocabulary the same change moves every answer
    for old, new in zip(whole_before, whole_after, strict=True):
        assert all(n < o - 1 for o, n in zip(old.reference_logprobs, new.reference_logprobs, strict=True))


def test_gradients_reach_the_competing_tokens_only() -> None:
    policy = random_policy(byte_tokenizer(words=True), seed=6)
    settings = settings_of()
    packed = pack_groups(groups_of(policy, settings, policy.generate(CONTEXTS, 6, 1, settings)))
    answer_logprobs(policy.model, packed).sum().backward()
    gradient_V = policy.model.lm_head.bias.grad
    masks = packed.masks()
    competing = set(masks.allowed_Q2[:, 1].tolist()) | set(packed.ids_T[packed.counted()].tolist())
    never = sorted(set(policy.vocabulary.forbidden) - competing)
    assert never
    assert (gradient_V[never] == 0).all()
    assert (gradient_V[sorted(competing)] != 0).any()


def test_pieces_of_the_logits_give_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, settings = policy_of("fused"), settings_of()
    packed = pack_groups(groups_of(policy, settings, policy.generate(CONTEXTS, 6, 1, settings)))
    other = random_policy(byte_tokenizer(words=False), seed=9)
    whole = token_logprobs(policy.model, packed), answer_divergences(policy.model, other.model, packed)
    monkeypatch.setattr("trainers.optimisation.packing.LOGITS_AT_ONCE", 7 * policy.model.config.vocab_size)
    torch.testing.assert_close(token_logprobs(policy.model, packed), whole[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer_divergences(policy.model, other.model, packed), whole[1], atol=1e-3, rtol=1e-4)


def test_an_answer_that_the_settings_cannot_write_is_refused() -> None:
    policy, settings = policy_of("worded"), settings_of()
    context = CONTEXTS[0]
    long = next(g for g in policy.generate([context], 40, 0, settings)[0] if len(g.token_ids) > 12)
    assert restrictions_of(policy, context, long, settings) is not None
    assert restrictions_of(policy, context, long, replace(settings, max_new_tokens=12)) is None
    group = PreferenceGroup(context, 0, 0, (0,), (1.0,))
    with pytest.raises(InputError, match=r"answer to context q.*give the settings that it was sampled with"):
        tokenise(policy, [group], [Sampled(context, (long,))], replace(settings, max_new_tokens=12))


def test_without_the_constraint_the_whole_vocabulary_competes() -> None:
    policy, settings = policy_of("worded"), settings_of(constrained=False)
    answers = policy.generate(CONTEXTS, 5, 2, settings)
    groups = with_reference(policy, groups_of(policy, settings, answers), precision="float32")
    for group, own in zip(groups, answers, strict=True):
        assert group.reference_logprobs == pytest.approx([g.logprob for g in own], abs=1e-3)
        assert not group.forbidden


def divergences_of(policy: Policy, base: Policy, answers: list[list[Generation]]) -> list[float]:
    packed = pack_groups(groups_of(policy, settings_of(), answers))
    found: list[float] = answer_divergences(policy.model, base.model, packed).flatten().tolist()
    return found


def test_the_divergence_is_zero_from_itself_and_never_negative() -> None:
    base, other = policy_of("worded"), random_policy(byte_tokenizer(words=True), seed=2)
    answers = base.generate(CONTEXTS, 20, 4, settings_of())
    assert divergences_of(base, base, answers) == [0.0] * 40
    assert min(divergences_of(base, other, answers)) >= 0
    # of the single answers' log-ratios some are negative even between policies this far apart in expectation
    nearby = random_policy(byte_tokenizer(words=True))
    with torch.no_grad():
        nearby.model.lm_head.weight.add_(0.05 * torch.randn_like(nearby.model.lm_head.weight))
    groups = groups_of(base, settings_of(), answers)
    own, near = (with_reference(p, groups, precision="float32") for p in (base, nearby))
    ratios = [
        a - b
        for g, h in zip(own, near, strict=True)
        for a, b in zip(g.reference_logprobs, h.reference_logprobs, strict=True)
    ]
    assert min(ratios) < 0
    assert min(divergences_of(base, nearby, answers)) >= 0


def test_the_divergence_estimates_that_of_the_answers_with_less_noise() -> None:
    base, policy = policy_of("worded"), random_policy(byte_tokenizer(words=True))
    torch.manual_seed(3)
    with torch.no_grad():
        policy.model.lm_head.weight.add_(0.1 * torch.randn_like(policy.model.lm_head.weight))
    answers = policy.generate(CONTEXTS, 150, 5, settings_of(max_new_tokens=12))
    groups = [
        token_group(policy, c, own, [0.0] * 150, settings_of(max_new_tokens=12))
        for c, own in zip(CONTEXTS, answers, strict=True)
    ]
    exact = answer_divergences(policy.model, base.model, pack_groups(groups)).flatten()
    own, other = (with_reference(p, groups, precision="float32") for p in (policy, base))
    pairs = itertools.chain.from_iterable(
        zip(a.reference_logprobs, b.reference_logprobs, strict=True) for a, b in zip(own, other, strict=True)
    )
    sampled = torch.tensor([a - b for a, b in pairs])
    error = math.sqrt(float(sampled.var() + exact.var()) / len(exact))
    assert abs(float(sampled.mean() - exact.mean())) < 4 * error
    assert float(exact.std()) < 0.7 * float(sampled.std())


def test_contexts_without_candidates_have_no_forks() -> None:
    policy, settings = policy_of("worded"), settings_of()
    context = Context("none", "Hi", ())
    answers = policy.generate([context], 3, 0, settings)[0]
    group = with_reference(policy, [token_group(policy, context, answers, [0.0] * 3, settings)], precision="float32")[0]
    assert group.allowed == [[], [], []]
    assert group.reference_logprobs == pytest.approx([g.logprob for g in answers], abs=1e-3)
