"""The structural tag, compiled by xgrammar, admits the texts whose markers are all candidates', and no others."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference.models import resolve
from mechanism.markers import parse, render_marker
from mechanism.structural_tags import text_tag, triggers
from mechanism.types import Ad

ADS = [
    Ad("p-1", "Pacemark Road Runners", "cushioned shoes", "Pacemark"),
    Ad("p-2", "Pacemark", "shoes", "Pacemark"),
    Ad("s-1", "Café Züri – Filter", "coffee", "Züri"),
]
MARKERS = [render_marker(ad) for ad in ADS]
PIECES = st.sampled_from(
    [
        *MARKERS,
        "Look at ",
        "me@mail.org",
        "@app.route",
        " ask @anna.",
        "@Pace",
        "é",
        "@[",
        "@Foo@[x-9]",
        "@Pacemark@[p-1]",
        "[p-1]",
    ]
)


@cache
def compiled(model: str) -> Any:
    """The tag of ADS, compiled for the tokens of a model."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(model))
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer), max_threads=1)
    return tokenizer, compiler.compile_structural_tag(text_tag(ADS))


def admitted(text: str, model: str = "tiny") -> bool:
    return bool(xgrammar.GrammarMatcher(compiled(model)[1]).accept_string(text))


@pytest.mark.parametrize("model", ["tiny", "smollm2-135m"])
def test_a_model_can_write_every_marker_in_its_own_tokens_and_no_other_id(model: str) -> None:
    tokenizer, grammar = compiled(model)
    for marker in MARKERS:
        matcher = xgrammar.GrammarMatcher(grammar)
        for token in tokenizer.encode(f"Try {marker} today.", add_special_tokens=False):
            assert matcher.accept_token(token)
    assert not admitted("Try @Pacemark Road Runners@[p-2]", model)
    assert not admitted("Try @Pacemark Road Runners today", model)


@pytest.mark.parametrize("text", ["Write to me@mail.org", "@anna said so", "@app.route('/')\ndef f(): ...", "7 @ 5"])
def test_an_ordinary_at_sign_stays_writable(text: str) -> None:
    assert admitted(text)


@given(st.lists(PIECES, max_size=6).map("".join))
@settings(max_examples=300, deadline=None)
def test_what_is_admitted_has_no_marker_but_those_of_candidates(text: str) -> None:
    if admitted(text):
        kinds = {fault.kind for fault in parse(text, ADS).faults}
        assert not kinds & {"unknown_ad", "altered_title"}


@given(st.lists(st.sampled_from([*MARKERS, "Look at ", "me@mail.org ", " or ", "é"]), max_size=6).map("".join))
@settings(max_examples=100, deadline=None)
def test_every_text_with_whole_markers_is_admitted(text: str) -> None:
    assert admitted(text)


def test_tag_is_json_and_a_title_that_continues_another_shares_its_trigger() -> None:
    assert json.loads(json.dumps(text_tag(ADS))) == text_tag(ADS)
    assert triggers(ADS) == ["@Pacemark", "@Café Züri – Filter"]
    assert text_tag([]) is None
