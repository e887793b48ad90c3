"""A model whose markers open with a character of its own: ordinary "@" stay text, and every marker is a candidate's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inference.constraint import MarkerVocabulary
from inference.models import LoadedModel
from inference.naming import naming_probabilities
from inference.policy import Policy
from mechanism.errors import InputError, PolicyError

from .conftest import byte_tokenizer, make_ad, make_context, random_policy

OPENER = "~"


def policy_with_opener(seed: int = 0) -> Policy:
    policy = random_policy(byte_tokenizer(words=True), seed)
    own = Policy(LoadedModel(policy.model, policy.tokenizer, policy.prompt_settings, policy.sampling, OPENER))
    with torch.no_grad():
        own.model.lm_head.bias[sorted(own.vocabulary.openers)] = 3.0
    return own


@pytest.fixture(scope="module")
def vocabulary() -> MarkerVocabulary:
    return policy_with_opener().vocabulary


@pytest.mark.parametrize("text", ["write to me@home.example", "@home", "a @ b", "see @app.route and [A] x"])
def test_an_ordinary_at_is_written_and_read_as_it_is(vocabulary: MarkerVocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert not set(ids) & (vocabulary.openers | set(vocabulary.forbidden))


def test_a_marker_is_encoded_with_the_opener_and_its_body_alone(vocabulary: MarkerVocabulary) -> None:
    ad = make_ad(1, "Kestrel Shoes")
    text = "Try @Kestrel Shoes@[A1] or me@home.example."
    ids = vocabulary.encode(text)
    at = [i for i, token in enumerate(ids) if token in vocabulary.openers]
    assert len(at) == 1
    assert tuple(ids[at[0] + 1 : at[0] + 1 + len(vocabulary.body(ad))]) == vocabulary.body(ad)
    assert vocabulary.decode(ids) == text


def test_sampled_answers_hold_markers_of_candidates_only() -> None:
    context = make_context()
    ads = {c.ad.id for c in context.candidates}
    shown = 0
    for seed in range(6):
        policy = policy_with_opener(seed)
        for generation in policy.generate([context], 8, seed)[0]:
            assert set(generation.answer.shown()) <= ads
            assert len(generation.choices) == len(generation.answer.insertions)
            assert OPENER not in generation.answer.raw
            shown += len(generation.choices)
    assert shown > 10


def test_what_is_streamed_is_what_is_generated() -> None:
    policy, context = policy_with_opener(1), make_context()
    stream = policy.stream(context, 5)
    pieces: list[str] = []
    while (piece := next(stream, None)) is not None:
        pieces.append(piece)
    assert "".join(pieces) == policy.generate([context], 1, 5)[0][0].answer.raw


def test_a_tokenizer_without_the_opener_is_refused() -> None:
    policy = random_policy(byte_tokenizer(words=True))
    loaded = LoadedModel(policy.model, policy.tokenizer, policy.prompt_settings, policy.sampling, "†")
    with pytest.raises(PolicyError, match="no token for the opener '†'"):
        _ = Policy(loaded).vocabulary


def test_a_title_with_the_opener_is_refused(vocabulary: MarkerVocabulary) -> None:
    with pytest.raises(InputError, match="leave out '~'"):
        vocabulary.body(replace(make_ad(1, "A"), title="Kestrel ~ Shoes"))


def test_candidates_are_named_after_the_opener() -> None:
    policy, context = policy_with_opener(), make_context(["Kestrel", "Kestrel Shoes", "Nest"])
    named = naming_probabilities(policy, [context], ["Write to me@home.example, or try @"])[0]
    assert named.keys() == {"A1", "A2", "A3"}
    assert sum(named.values()) == pytest.approx(1.0)
