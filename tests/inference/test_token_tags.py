"""The token tag, compiled by xgrammar, admits at every step exactly the tokens that the candidate trie admits.

Proved over random catalogues and random answers, on the tokenizers of SmolLM2, Qwen3 and Llama 3 and on small ones
whose tokens cross the parts of markers.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference.constraint import MARK, MarkerConstraint, MarkerVocabulary
from inference.models import resolve
from mechanism.structural_tags import MOST_STATES, text_tag, token_tag
from mechanism.types import Ad
from tests.inference.conftest import blank_tokenizer, byte_tokenizer
from tests.support.known_tokenizers import KnownTokenizer

OPENER = "†"
ENDS = {"qwen3": ("<|im_end|>", "<|endoftext|>"), "llama3": ("<|eot_id|>", "<|end_of_text|>")}
LOGITS = {"qwen3": 151_936, "llama3": 128_256}
"""Columns of the released models' logits: more than tokens."""
SMALL, KNOWN = ("worded", "fused", "blanked"), ("smollm2-135m", "qwen3", "llama3")
TITLE = st.text(st.sampled_from("Kestrel Shoes Café東0-&"), min_size=1, max_size=12).map(str.strip).filter(bool)
ID = st.text(st.sampled_from("A1p-x0"), min_size=1, max_size=6)
CATALOGUE = st.lists(st.tuples(TITLE, ID), min_size=0, max_size=5, unique_by=lambda pair: pair[1])
Mask = npt.NDArray[np.bool_]
PIECES = ["Try ", "me@mail.org", "[", "][", "see [1]", ".", "é", "東", "[A", " a[0]", "p-1]", " and"]


@dataclass(frozen=True)
class Decoder:
    """A tokenizer as this project's constraint and as xgrammar read it."""

    vocabulary: MarkerVocabulary
    compiler: Any


@cache
def decoder(name: str, opener: str) -> Decoder:
    if name in ENDS:
        known = KnownTokenizer(name)
        ends = [i for i, text in known.special.items() if text in ENDS[name]]
        vocabulary = MarkerVocabulary(known, LOGITS[name], ends, opener)
        info = xgrammar.TokenizerInfo(known.pieces, vocab_size=LOGITS[name], stop_token_ids=ends)
    else:
        small = {
            "worded": lambda: byte_tokenizer(words=True),
            "fused": lambda: byte_tokenizer(words=False),
            "blanked": blank_tokenizer,
        }
        tokenizer: Any = small[name]() if name in small else AutoTokenizer.from_pretrained(resolve(name))
        size, ends = len(tokenizer) + 3 * (name in small), [tokenizer.eos_token_id]
        vocabulary = MarkerVocabulary(tokenizer, size, ends, opener)
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size, stop_token_ids=ends)
    return Decoder(vocabulary, xgrammar.GrammarCompiler(info, max_threads=1))


def admitted(matcher: Any, size: int) -> Mask:
    """Which tokens xgrammar admits next."""
    mask = xgrammar.allocate_token_bitmask(1, size)
    matcher.fill_next_token_bitmask(mask)
    return np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[:size].astype(bool)


def allowed(constraint: MarkerConstraint) -> Mask:
    """Which tokens this project's sampler draws from, in an answer with any number of tokens left."""
    vocabulary = constraint.vocabulary
    if constraint.inside:
        mask = np.zeros(vocabulary.size, dtype=bool)
        mask[constraint.allowed()] = True
        return mask
    mask = np.ones(vocabulary.size, dtype=bool)
    closed = frozenset() if constraint.may_open(10**6) else vocabulary.openers
    mask[[*vocabulary.forbidden, *constraint.barred(), *closed]] = False
    return mask


def follow(name: str, opener: str, ads: list[Ad], max_ads: int | None, seed: int, steps: int = 30) -> int:
    """Walk through one random answer, compare at every step, and return the number of markers in it.

    Half the tokens are those of texts that come close to markers, the others are drawn from all that are allowed.
    """
    rng = random.Random(seed)
    parts = decoder(name, opener)
    vocabulary = parts.vocabulary
    trie = vocabulary.trie(ads)
    tag = token_tag(vocabulary.rules(trie.root.ads), trie, max_ads)
    matcher = xgrammar.GrammarMatcher(parts.compiler.compile_structural_tag(json.dumps(tag)))
    constraint = MarkerConstraint(vocabulary, trie, max_ads)
    planned: list[int] = []
    for _ in range(steps):
        mine = allowed(constraint)
        assert np.array_equal(admitted(matcher, vocabulary.size), mine)
        if not planned and not constraint.inside and rng.random() < 0.5:
            planned = vocabulary.encode(rng.choice(PIECES))
        openers = [i for i in vocabulary.openers if mine[i]]
        token = planned.pop(0) if planned else rng.choice(openers) if openers and rng.random() < 0.4 else -1
        if token < 0 or not mine[token]:
            planned, token = [], int(rng.choice(np.flatnonzero(mine)))
        assert matcher.accept_token(token)
        if token in vocabulary.end_tokens:
            break
        constraint.advance(token)
    return len(constraint.choices)


def catalogue(name: str, opener: str, pairs: list[tuple[str, str]]) -> list[Ad]:
    """The ads whose markers this tokenizer can write."""
    vocabulary = decoder(name, opener).vocabulary
    ads = [Ad(ad_id, title, "", "") for title, ad_id in pairs]
    known = set(vocabulary.tokenizer.get_vocab())
    return [ad for ad in ads if name != "blanked" or set(ad.title.replace(" ", "▁") + ad.id) <= known]


@pytest.mark.parametrize("name", SMALL)
@given(pairs=CATALOGUE, max_ads=st.none() | st.integers(0, 3), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_small_tokenizers_agree_at_every_step(
    name: str, pairs: list[tuple[str, str]], max_ads: int | None, seed: int
) -> None:
    follow(name, MARK, catalogue(name, MARK, pairs), max_ads, seed)


@pytest.mark.parametrize("opener", [MARK, OPENER])
@pytest.mark.parametrize("name", KNOWN)
@given(pairs=CATALOGUE, max_ads=st.none() | st.integers(0, 3), seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_released_tokenizers_agree_at_every_step(
    name: str, opener: str, pairs: list[tuple[str, str]], max_ads: int | None, seed: int
) -> None:
    follow(name, opener, catalogue(name, opener, pairs), max_ads, seed)


@pytest.mark.parametrize("name", [*SMALL, *KNOWN])
def test_such_walks_pass_through_markers(name: str) -> None:
    # Otherwise the comparisons above would prove little.
    ads = [Ad(f"A{i}", title, "", "") for i, title in enumerate(("Nest", "Nest Two", "Kestrel"))]
    assert sum(follow(name, MARK, ads, 2, seed) for seed in range(8)) >= 8


def test_with_too_many_states_an_ad_may_come_again_and_nothing_else() -> None:
    parts = decoder("worded", MARK)
    ads = [Ad(f"A{i}", f"Nest {i}", "", "") for i in range(12)]
    trie = parts.vocabulary.trie(ads)
    assert MOST_STATES < 1 + 12 + 66
    tag = token_tag(parts.vocabulary.rules(trie.root.ads), trie, 3)
    matcher = xgrammar.GrammarMatcher(parts.compiler.compile_structural_tag(json.dumps(tag)))
    constraint = MarkerConstraint(parts.vocabulary, trie, 3)
    for token in (min(parts.vocabulary.openers), *parts.vocabulary.body(ads[3])):
        assert np.array_equal(admitted(matcher, parts.vocabulary.size), allowed(constraint))
        assert matcher.accept_token(token)
        constraint.advance(token)
    assert np.array_equal(admitted(matcher, parts.vocabulary.size), allowed(constraint))
    for token in (min(parts.vocabulary.openers), *parts.vocabulary.body(ads[3])):
        assert matcher.accept_token(token)


@given(pairs=CATALOGUE.filter(bool), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_text_tag_admits_every_answer_of_the_token_tag(pairs: list[tuple[str, str]], seed: int) -> None:
    parts = decoder("smollm2-135m", OPENER)
    vocabulary, ads = parts.vocabulary, catalogue("smollm2-135m", OPENER, pairs)
    text = xgrammar.GrammarMatcher(parts.compiler.compile_structural_tag(json.dumps(text_tag(ads, OPENER))))
    constraint, rng = MarkerConstraint(vocabulary, vocabulary.trie(ads), None), random.Random(seed)
    # Without an ordinary "@": the text tag bars a "[" after it, which would be a marker without a title.
    words = [i for piece in PIECES if MARK not in piece for i in vocabulary.encode(piece)]
    for _ in range(40):
        mine = allowed(constraint)
        inside = constraint.inside
        theirs = admitted(text, vocabulary.size)
        if inside:
            # What it admits beside the trie's tokens writes the same titles in other tokens.
            assert (theirs >= mine).all()
        options = np.flatnonzero(mine).tolist() if inside else [i for i in (*words, *vocabulary.openers) if mine[i]]
        token = rng.choice(options)
        assert text.accept_token(token)
        constraint.advance(token)


def test_a_tag_is_json() -> None:
    parts = decoder("worded", MARK)
    trie = parts.vocabulary.trie([Ad("A1", "Nest", "", "")])
    tag = token_tag(parts.vocabulary.rules(trie.root.ads), trie, None)
    assert json.loads(json.dumps(tag)) == tag
    rules = replace(parts.vocabulary.rules(trie.root.ads), openers=frozenset())
    closed = parts.compiler.compile_structural_tag(json.dumps(token_tag(rules, trie, None)))
    assert parts.vocabulary.body(Ad("A1", "Nest", "", ""))  # without an opener its marker cannot begin
    assert xgrammar.GrammarMatcher(closed).accept_token(parts.vocabulary.encode("Nest")[0])
