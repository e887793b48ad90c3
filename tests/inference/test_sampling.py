"""The decoding loop against plain transformers: equal logits, equal probabilities, independent rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from inference.cache import InPlaceCache
from inference.constraint import MarkerConstraint
from inference.policy import Policy
from inference.sampling import Row, SamplingSettings, decode
from mechanism.types import Context, Generation

from .conftest import TITLES, make_context

LONG = make_context(query="Which shoes are good for muddy trails, flat feet, rain and a first marathon?", name="long")
DISTINCT = ("Kestrel", "Oak", "Nest", "Zoë", "東京")


def widest(**changes: Any) -> SamplingSettings:
    return SamplingSettings(**({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 40} | changes))


def warped(scores_V: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Return log-probabilities under transformers' own warpers."""
    if settings.temperature == 0:
        return torch.full_like(scores_V, -math.inf).index_fill(0, scores_V.argmax(), 0.0)
    warpers: Any = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return torch.log_softmax(warpers(None, scores_V[None])[0], -1)


@torch.inference_mode()
def recomputed(policy: Policy, context: Context, generation: Generation, settings: SamplingSettings) -> float:
    """Return the answer's log-probability from one forward pass over prompt and answer, without a cache."""
    prompt, answer = policy.prompt_ids(context), policy.answer_ids(generation)
    logits_TV = policy.model(torch.tensor([prompt + answer])).logits[0].double()
    vocabulary = policy.vocabulary
    constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), settings.max_ads)
    total = 0.0
    for number, token in enumerate(answer):
        scores = logits_TV[len(prompt) + number - 1].clone()
        if constraint.inside:
            allowed = constraint.allowed()
            scores = torch.full_like(scores, -math.inf).index_copy(0, torch.tensor(allowed), scores[allowed])
        elif settings.constrained:
            closed = set() if constraint.may_open(settings.max_new_tokens - number) else vocabulary.openers
            scores[sorted({*vocabulary.forbidden, *constraint.barred(), *closed})] = -math.inf
        total += float(warped(scores, settings)[token])
        if settings.constrained and token not in vocabulary.end_tokens:
            constraint.advance(token)
    return total


@pytest.mark.parametrize(
    "settings",
    [
        widest(),
        widest(temperature=0.7, top_p=0.8, top_k=20),
        widest(temperature=1.3, top_k=7, max_ads=1),
        widest(top_p=0.6, max_new_tokens=18),
        widest(constrained=False),
        widest(temperature=0.0),
    ],
)
@pytest.mark.parametrize("style", ["worded", "fused"])
def test_logprob_equals_that_of_a_plain_forward_pass(
    request: pytest.FixtureRequest, style: str, settings: SamplingSettings
) -> None:
    policy: Policy = request.getfixturevalue(style)
    # Prompts of different lengths, and rows that end at different steps: the batch is padded, and rows are dropped.
    contexts = [make_context(), LONG, make_context(["Nest"], query="Hi", name="short")]
    drawn = policy.generate(contexts, 8, seed=3, settings=settings)
    assert len({len(g.token_ids) for own in drawn for g in own}) > 1 or settings.temperature == 0
    for context, own in zip(contexts, drawn, strict=True):
        for generation in own:
            expected = recomputed(policy, context, generation, settings)
            assert generation.logprob == pytest.approx(expected, abs=2e-4 * (1 + len(generation.token_ids)))


@pytest.mark.parametrize("style", ["worded", "fused", "blanked"])
@pytest.mark.parametrize("settings", [widest(), widest(temperature=0.7, top_p=0.8, top_k=4)])
def test_propensities_sum_to_one_and_name_the_chosen_ad(
    request: pytest.FixtureRequest, style: str, settings: SamplingSettings
) -> None:
    policy: Policy = request.getfixturevalue(style)
    context = make_context([t for t in TITLES if t.isascii()])
    choices = 0
    for generation in policy.generate([context], 300, seed=5, settings=settings)[0]:
        gone: set[str] = set()
        for choice in generation.choices:
            assert math.isclose(sum(choice.probabilities.values()), 1.0, rel_tol=1e-9)
            assert min(choice.probabilities.values()) >= 0
            assert choice.probabilities[choice.chosen] > 0
            assert not gone & set(choice.probabilities)
            gone.add(choice.chosen)
            choices += 1
    assert choices > 50


def test_propensities_are_exact_where_first_tokens_differ(worded: Policy) -> None:
    context = make_context(DISTINCT)
    bodies = {c.ad.id: worded.vocabulary.body(c.ad) for c in context.candidates}
    assert len({b[0] for b in bodies.values()}) == len(bodies)
    settings = widest(temperature=0.7, top_p=0.95, max_ads=1)
    prompt, seen = worded.prompt_ids(context), 0
    for generation in worded.generate([context], 40, seed=1, settings=settings)[0]:
        for choice in generation.choices:
            assert choice.exact
            opened = 1 + next(i for i, t in enumerate(generation.token_ids) if t in worded.vocabulary.openers)
            with torch.inference_mode():
                logits = worded.model(torch.tensor([[*prompt, *generation.token_ids[:opened]]])).logits[0, -1]
            expected = warped(logits[[b[0] for b in bodies.values()]], settings).exp().tolist()
            assert [choice.probabilities[i] for i in bodies] == pytest.approx(expected, abs=1e-5)
            seen += 1
    assert seen > 10


def test_propensities_match_the_frequencies_of_many_samples(worded: Policy) -> None:
    context = make_context(DISTINCT)
    drawn = worded.generate([context], 4000, seed=2, settings=widest(max_ads=1, max_new_tokens=24))[0]
    choices = [g.choices[0] for g in drawn if g.choices]
    observed = Counter(c.chosen for c in choices)
    assert len(choices) > 1000
    for ad_id in (c.ad.id for c in context.candidates):
        shares = [c.probabilities[ad_id] for c in choices]
        deviation = math.sqrt(sum(p * (1 - p) for p in shares))
        assert abs(observed[ad_id] - sum(shares)) < 4 * deviation + 1e-9


def test_propensities_of_a_shared_beginning_are_marked_inexact_and_keep_the_groups_mass(worded: Policy) -> None:
    context = make_context(["Nest", "Kestrel", "Kestrel Shoes", "Kestrel Shoes Pro"])
    drawn = worded.generate([context], 3000, seed=4, settings=widest(max_ads=1, max_new_tokens=30))[0]
    choices = [g.choices[0] for g in drawn if g.choices]
    alone = [c for c in choices if c.chosen == "A1"]
    # The other three share their first token, so a marker of Nest does not separate them.
    assert alone
    assert not any(c.exact for c in alone)
    assert all(c.probabilities["A2"] == c.probabilities["A3"] == c.probabilities["A4"] for c in alone)
    # The candidate that ends last is separated at every fork.
    assert any(c.exact for c in choices if c.chosen == "A4")
    shares = [c.probabilities["A1"] for c in choices]
    deviation = math.sqrt(sum(p * (1 - p) for p in shares))
    assert abs(len(alone) - sum(shares)) < 4 * deviation


@torch.inference_mode()
def test_the_in_place_cache_gives_the_logits_of_a_growing_cache(worded: Policy) -> None:
    torch.manual_seed(0)
    ids, more = torch.randint(5, 300, (3, 12)), torch.randint(5, 300, (6, 5))
    place, grown = InPlaceCache(2, 20), DynamicCache(config=worded.model.config)
    outs = [worded.model(ids, past_key_values=cache, use_cache=True).logits for cache in (place, grown)]
    assert torch.equal(*outs)
    place.select(torch.arange(3).repeat_interleave(2))
    grown.batch_repeat_interleave(2)
    for step in range(3):
        both = (place, grown)
        outs = [worded.model(more[:, step : step + 1], past_key_values=cache, use_cache=True).logits for cache in both]
        assert torch.allclose(*outs, atol=1e-6)
    keep = torch.tensor([0, 3, 5])
    place.select(keep)
    grown.batch_select_indices(keep)
    outs = [worded.model(more[keep, 3:4], past_key_values=cache, use_cache=True).logits for cache in (place, grown)]
    assert torch.allclose(*outs, atol=1e-6)
    assert place.get_seq_length() == grown.get_seq_length() == 16


def test_a_full_cache_is_an_error(worded: Policy) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        worded.model(torch.ones(1, 9, dtype=torch.int64), past_key_values=InPlaceCache(2, 8), use_cache=True)


def test_left_padding_does_not_change_the_best_answer(worded: Policy) -> None:
    settings, context = widest(temperature=0.0), make_context(["Nest"], query="Hi")
    assert len(worded.prompt_ids(LONG)) > len(worded.prompt_ids(context)) + 20
    alone = worded.generate([context], 1, seed=0, settings=settings)[0][0]
    among = worded.generate([LONG, context, LONG], 1, seed=0, settings=settings)[1][0]
    assert alone.token_ids == among.token_ids


def run(policy: Policy, contexts: list[Context], samples: int, seed: int) -> list[Row]:
    vocabulary = policy.vocabulary
    steps = decode(
        policy.model,
        vocabulary,
        [policy.prompt_ids(c) for c in contexts],
        [vocabulary.trie([p.ad for p in c.candidates]) for c in contexts],
        samples,
        widest(),
        torch.Generator().manual_seed(seed),
    )
    yielded: dict[int, list[int]] = {}
    while True:
        try:
            number, token = next(steps)
        except StopIteration as end:
            rows: list[Row] = end.value
            break
        yielded.setdefault(number, []).append(token)
    for number, row in enumerate(rows):
        ended = [policy.end_tokens[0]] if row.finished else []
        assert yielded[number] == [*row.tokens, *ended]
    return rows


def test_rows_that_finish_early_do_not_change_the_others(worded: Policy) -> None:
    one, two = make_context(query="Which shoes are good?"), make_context(query="Which boots are good?")
    other, lengths = make_context(query="Which shoes, and why?"), set()
    for seed in range(4):
        before, after = run(worded, [one, other], 6, seed), run(worded, [two, other], 6, seed)
        lengths |= {(len(a.tokens), len(b.tokens)) for a, b in zip(before[:6], after[:6], strict=True)}
        assert [r.tokens for r in before[6:]] == [r.tokens for r in after[6:]]
    assert any(a != b for a, b in lengths)


def test_an_answer_that_fills_its_budget_is_not_finished(worded: Policy, context: Context) -> None:
    drawn = worded.generate([context], 50, seed=0, settings=widest(max_new_tokens=8))[0]
    assert {g.finished for g in drawn} == {True, False}
    assert all(len(g.token_ids) == 8 for g in drawn if not g.finished)
    assert all(worded.answer_ids(g)[-1] == worded.end_tokens[0] for g in drawn if g.finished)
