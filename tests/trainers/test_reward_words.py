"""Words that texts share: inflected forms count as one, rare words more than frequent ones, and order never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.reward.words import WordWeights

TEXTS = ["a light tent for the mountains", "the best pan for the kitchen", "the tent and the pan", "the rain"]
WEIGHTS = WordWeights.of(TEXTS)


def test_equal_words_in_any_order_are_one_and_none_shared_are_zero() -> None:
    assert WEIGHTS.cosine("light tents", "Tent, lightly!") == pytest.approx(1.0)
    assert WEIGHTS.cosine("light tents", "iron pans") == 0.0
    assert WEIGHTS.cosine("", "tent") == WEIGHTS.cosine("", "") == 0.0


def test_a_rare_word_counts_more_than_a_frequent_one() -> None:
    assert WEIGHTS.weights["the"] < WEIGHTS.weights["pan"] < WEIGHTS.unseen
    assert WEIGHTS.cosine("the kitchen", "kitchen") > WEIGHTS.cosine("the kitchen", "the")


def test_a_text_counts_once_however_often_it_is_given() -> None:
    assert WordWeights.of(TEXTS * 3).weights == WEIGHTS.weights


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_cosine_is_symmetric_and_within_0_and_1(one: str, other: str) -> None:
    assert WEIGHTS.cosine(one, other) == pytest.approx(WEIGHTS.cosine(other, one))
    assert -1e-9 <= WEIGHTS.cosine(one, other) <= 1 + 1e-9
