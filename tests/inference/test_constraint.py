"""Answers contain only whole, verbatim, distinct markers of their own candidates, for any weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.constraint import MarkerConstraint, MarkerVocabulary
from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, score
from mechanism.errors import InputError
from mechanism.markers import marker_body, parse
from mechanism.types import Ad, Context, Generation

from .conftest import TITLES, decided_tokens, make_context

STYLES = ("worded", "fused", "blanked")
WIDE: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def policy_of(request: pytest.FixtureRequest, style: str) -> Policy:
    policy: Policy = request.getfixturevalue(style)
    return policy


def candidates(style: str) -> Context:
    return make_context([t for t in TITLES if t.isascii()] if style == "blanked" else TITLES)


def draw(policy: Policy, context: Context, count: int, **changes: Any) -> list[Generation]:
    sampling = replace(policy.sampling, **(WIDE | changes))
    return policy.generate([context], count, seed=11, settings=sampling)[0]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_random_weights_never_write_an_invalid_insertion(
    request: pytest.FixtureRequest, style: str, temperature: float
) -> None:
    policy, context = policy_of(request, style), candidates(style)
    inserted = 0
    # With tight budgets too, no marker is cut off by the end of the answer.
    for budget in (1, 5, 14, 22, 40):
        for generation in draw(policy, context, 250, temperature=temperature, max_new_tokens=budget):
            answer = generation.answer
            assert answer.faults == ()
            assert len(generation.token_ids) <= budget
            assert len(answer.shown()) == len(answer.insertions) == len(generation.choices)
            assert answer.shown() == tuple(c.chosen for c in generation.choices)
            inserted += len(answer.insertions)
    assert inserted > 0


@pytest.mark.parametrize("style", STYLES)
def test_the_same_weights_without_the_constraint_write_faults(request: pytest.FixtureRequest, style: str) -> None:
    drawn = draw(policy_of(request, style), candidates(style), 200, constrained=False)
    assert sum(bool(g.answer.faults) for g in drawn) > 100


def test_text_without_markers_still_writes_brackets(worded: Policy, context: Context) -> None:
    drawn = draw(worded, context, 300)
    assert any("[" in g.answer.text for g in drawn)
    assert any("]" in g.answer.text for g in drawn)


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_max_ads_bounds_every_answer_and_is_reached(fused: Policy, context: Context, bound: int) -> None:
    counts = {len(g.answer.insertions) for g in draw(fused, context, 300, max_ads=bound, max_new_tokens=60)}
    assert max(counts) == bound


def test_without_candidates_nothing_is_inserted(fused: Policy) -> None:
    for generation in draw(fused, make_context([]), 200):
        assert "@" not in generation.answer.raw
        assert generation.answer.text == generation.answer.raw


def test_special_tokens_of_the_chat_template_are_never_written(worded: Policy, context: Context) -> None:
    assert not any("<|" in g.answer.raw and "|>" in g.answer.raw for g in draw(worded, context, 300, temperature=2.5))


def test_titles_that_begin_each_other_are_all_reachable(worded: Policy) -> None:
    context = make_context(["Kestrel", "Kestrel Shoes", "Kestrel Shoes Pro"])
    shown = {ad for g in draw(worded, context, 500, max_new_tokens=60) for ad in g.answer.shown()}
    assert shown == {"A1", "A2", "A3"}


def test_ids_that_begin_each_other_are_distinguished(fused: Policy) -> None:
    context = make_context(["Nest"] * 11)
    drawn = draw(fused, context, 400, max_new_tokens=60)
    assert {"A1", "A10", "A11"} <= {ad for g in drawn for ad in g.answer.shown()}
    assert not any(g.answer.faults for g in drawn)


def test_a_marker_opens_only_where_the_budget_completes_it(worded: Policy, context: Context) -> None:
    vocabulary = worded.vocabulary
    trie = vocabulary.trie([c.ad for c in context.candidates])
    constraint = MarkerConstraint(vocabulary, trie, None)
    assert not constraint.may_open(trie.longest)
    assert constraint.may_open(trie.longest + 2)


@pytest.mark.parametrize("style", STYLES)
def test_bodies_are_written_verbatim_after_every_opener(request: pytest.FixtureRequest, style: str) -> None:
    vocabulary = policy_of(request, style).vocabulary
    assert vocabulary.openers
    for candidate in candidates(style).candidates:
        for opener in vocabulary.openers:
            raw = vocabulary.decode([opener, *vocabulary.body(candidate.ad)])
            assert raw.endswith("@" + marker_body(candidate.ad))


def test_a_title_that_the_tokenizer_cannot_write_is_refused(blanked: Policy) -> None:
    with pytest.raises(InputError, match="cannot write it verbatim"):
        blanked.vocabulary.body(Ad("A1", "Ωmega", "", ""))


def test_a_title_that_contains_a_special_token_is_refused(worded: Policy) -> None:
    with pytest.raises(InputError, match="cannot write it verbatim"):
        worded.vocabulary.body(Ad("A1", "Shoes <|end|>", "", ""))


@pytest.mark.parametrize("style", ["worded", "fused"])
def test_no_pair_of_free_tokens_writes_an_id_in_brackets(request: pytest.FixtureRequest, style: str) -> None:
    vocabulary = policy_of(request, style).vocabulary
    ads = [c.ad for c in make_context().candidates]
    ids = tuple(ad.id for ad in ads)
    special = frozenset(vocabulary.forbidden) | vocabulary.end_tokens
    free = [i for i in range(len(vocabulary.tokenizer)) if i not in special | vocabulary.openers]
    fused, after = vocabulary.fused(ids), vocabulary.after_bracket(ids)
    brackets = [i for i in free if i in vocabulary.bracket_ends and i not in fused]
    assert brackets
    for first in brackets:
        for second in free:
            if second not in fused | after:
                assert parse(vocabulary.decode([first, second]), ads).faults == ()


def test_the_openers_of_a_published_tokenizer() -> None:
    # The tokenizer of SmolLM2: byte-level, 49,152 tokens.
    pytest.importorskip("gguf")
    from transformers import AutoTokenizer

    from inference.models import resolve
    from inference.quiet import quiet_loading

    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m"))
    vocabulary = MarkerVocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    assert {"@", " @"} <= {vocabulary.decode([i]) for i in vocabulary.openers}
    assert not vocabulary.openers & set(vocabulary.forbidden)
    assert {"@@", "[@", "<|im_start|>"} <= {vocabulary.decode([i]) for i in vocabulary.forbidden}
    ads = [c.ad for c in make_context().candidates]
    for opener in vocabulary.openers:
        for ad in ads:
            answer = parse(vocabulary.decode([opener, *vocabulary.body(ad)]), ads)
            assert answer.shown() == (ad.id,)
            assert answer.faults == ()


def test_no_body_begins_the_body_of_another_ad(fused: Policy, context: Context) -> None:
    bodies = sorted(fused.vocabulary.body(c.ad) for c in context.candidates)
    assert all(b[: len(a)] != a for a, b in pairwise(bodies))


def test_settings_out_of_range_are_refused_with_their_name() -> None:
    bad: list[dict[str, Any]] = [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"max_ads": -1},
    ]
    for setting in bad:
        with pytest.raises(InputError, match=next(iter(setting))):
            SamplingSettings(**setting)


@pytest.mark.parametrize("style", STYLES)
def test_inside_a_marker_the_policy_decides_only_where_the_trie_forks(
    request: pytest.FixtureRequest, style: str
) -> None:
    policy, context = policy_of(request, style), candidates(style)
    forks, forced = 0, 0
    for generation in draw(policy, context, 200, max_new_tokens=40):
        decided = decided_tokens(policy, context, generation)
        assert len(decided) == len(policy.answer_ids(generation))
        state = MarkerConstraint(policy.vocabulary, policy.vocabulary.trie([c.ad for c in context.candidates]), None)
        for token, free in zip(generation.token_ids, decided, strict=False):
            others = state.inside and len(state.allowed()) > 1
            assert free == (others or not state.inside)
            forks += others
            forced += not free
            state.advance(token)
        assert decided[len(generation.token_ids) :] == [True] * generation.finished
    assert forks > 20
    assert forced > 20


def test_tokens_after_leaving_the_trie_count_as_decided(worded: Policy) -> None:
    context = candidates("worded")
    for generation in draw(worded, context, 200, constrained=False):
        if generation.answer.faults and not generation.answer.insertions:
            free = decided_tokens(worded, context, generation)
            assert len(free) == len(worded.answer_ids(generation))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.5])
def test_candidates_that_must_be_shown_are_shown_once_each_for_any_weights(
    request: pytest.FixtureRequest, style: str, temperature: float
) -> None:
    policy = policy_of(request, style)
    for titles in (["Nest"], ["Kestrel Shoes", "Kestrel"], ["Oak & Elm", "A1", "Nest"]):
        context = make_context(titles)
        ids = {c.ad.id for c in context.candidates}
        least = sum(1 + len(policy.vocabulary.body(c.ad)) for c in context.candidates)
        # From the least budget that can hold the markers to one that leaves the place to the policy.
        for budget in (least, least + 1, least + 40):
            drawn = draw(policy, context, 12, temperature=temperature, max_new_tokens=budget, must_show=True)
            for generation in drawn:
                assert generation.answer.faults == ()
                assert sorted(i.ad_id for i in generation.answer.insertions) == sorted(ids)
                assert len(generation.token_ids) <= budget


def test_ads_that_must_be_shown_need_a_budget_that_holds_them(worded: Policy) -> None:
    context = make_context(["Nest", "Kestrel"])
    least = sum(1 + len(worded.vocabulary.body(c.ad)) for c in context.candidates)
    with pytest.raises(InputError, match=f"max_new_tokens.*{least} tokens are needed"):
        draw(worded, context, 1, max_new_tokens=least - 1, must_show=True)
    with pytest.raises(InputError, match="must_show"):
        SamplingSettings(must_show=True, max_ads=1)
    with pytest.raises(InputError, match="one_segment"):
        SamplingSettings(one_segment=True)


@given(st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_allowed_walk_shows_every_ad_within_its_budget(worded: Policy, data: st.DataObject) -> None:
    vocabulary = worded.vocabulary
    ads = [c.ad for c in make_context(["Kestrel", "Kestrel Shoes", "Nest"]).candidates]
    state = MarkerConstraint(vocabulary, vocabulary.trie(ads), None, must_show=True)
    budget = state.needed + data.draw(st.integers(0, 30))
    brackets = sorted(vocabulary.bracket_ends - set(vocabulary.forbidden))
    openers = sorted(vocabulary.openers)
    words = sorted(set(range(vocabulary.size)) - set(vocabulary.forbidden) - vocabulary.openers)
    tokens: list[int] = []
    while len(tokens) < budget:
        left = budget - len(tokens)
        if state.inside:
            token = data.draw(st.sampled_from(state.allowed()))
        else:
            barred = state.barred(left) | (frozenset() if state.may_open(left) else vocabulary.openers)
            choices = [[t for t in kind if t not in barred] for kind in (words, brackets, openers)]
            token = data.draw(st.sampled_from(data.draw(st.sampled_from([c for c in choices if c]))))
        if token in vocabulary.end_tokens:
            break
        state.advance(token)
        tokens.append(token)
    assert not state.missing
    answer = parse(vocabulary.decode(tokens), ads)
    assert answer.faults == ()
    assert sorted(i.ad_id for i in answer.insertions) == ["A1", "A2", "A3"]


@pytest.mark.parametrize("style", ["worded", "fused"])
def test_forced_answers_score_as_they_were_sampled(request: pytest.FixtureRequest, style: str) -> None:
    policy, context = policy_of(request, style), make_context(["Kestrel", "Nest"])
    sampling = replace(policy.sampling, **WIDE, max_new_tokens=50, must_show=True)
    drawn = policy.generate([context], 20, seed=3, settings=sampling)[0]
    for generation, scored in zip(drawn, score(Sampler(policy, sampling), [context] * 20, drawn), strict=True):
        assert scored.logprob == pytest.approx(generation.logprob, abs=2e-4 * (1 + len(generation.token_ids)))


def test_an_opening_is_continued_with_the_ads_that_it_lacks() -> None:
    policy = Policy.load("tiny")
    both = make_context(["Nest", "Kestrel"])
    first = replace(both, candidates=both.candidates[:1])
    sampling = replace(policy.sampling, must_show=True)
    segment = replace(sampling, max_new_tokens=60, one_segment=True)
    openings = [own[0] for own in policy.generate([first] * 10, 1, seed=4, settings=segment)]
    ended = [g for g in openings if g.finished]
    assert ended
    assert all(g.token_ids[-1] in policy.vocabulary.sentence_ends for g in ended)
    whole = [own[0] for own in policy.generate([both] * 10, 1, seed=5, settings=sampling, openings=openings)]
    for opening, generation in zip(openings, whole, strict=True):
        assert generation.token_ids[: len(opening.token_ids)] == opening.token_ids
        assert generation.logprob <= opening.logprob
        assert generation.answer.shown() == ("A1", "A2")
        assert [c.chosen for c in generation.choices] == ["A1", "A2"]
        assert len(generation.token_ids) <= sampling.max_new_tokens


def test_the_shipped_model_shows_every_winner() -> None:
    policy = Policy.load("tiny")
    sampling = replace(policy.sampling, temperature=1.0, must_show=True)
    contexts = [
        replace(make_context(t), query=f"Which shoes suit {t[0]}?") for t in (["Nest"], ["Nest", "Kestrel", "A1"])
    ]
    for context, own in zip(contexts, policy.generate(contexts, 20, seed=1, settings=sampling), strict=True):
        for generation in own:
            assert sorted(generation.answer.shown()) == sorted(context.bids())
            assert generation.answer.faults == ()
