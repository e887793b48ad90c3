"""Quality of an answer: on topic, complete, without loops, and judged without its ads."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mechanism.types import Answer, Insertion
from trainers.reward.quality import (
    AD_SENTENCES,
    PASSAGE_WORDS,
    UNFINISHED,
    Encode,
    answer_qualities,
    passages,
    repetition_factor,
    split_sentences,
)


def answer_quality(query: str, answer: Answer, finished: bool, encode: Encode) -> float:
    return answer_qualities([(query, answer, finished)], encode)[0]


QUERY = "Which headphones are good for noisy trains?"
ADVICE = "Good headphones for trains cancel low noise. Check that they fit your head well."


def encode(texts: list[str]) -> NDArray[np.float32]:
    """A stand-in with a known meaning: the share of words about headphones and trains on one axis."""
    rows = []
    for text in texts:
        topic = 1.0 if any(word in text.lower() for word in ("headphones", "train", "noise", "fit")) else 0.0
        rows.append([topic, 1 - topic])
    return np.array(rows, np.float32)


def with_ad(text: str, title: str) -> Answer:
    start = text.index(title)
    return Answer(text, text, (Insertion("ad-1", start, start + len(title)),))


def test_a_complete_answer_on_topic_is_worth_one_and_one_off_topic_nothing() -> None:
    assert answer_quality(QUERY, Answer("", ADVICE), True, encode) == 1.0
    assert answer_quality(QUERY, Answer("", "Rinse rice in cold water before you cook it."), True, encode) == 0.0


@pytest.mark.parametrize("text", ["", "  \n ", "...", "!?"])
def test_an_answer_without_words_is_worth_nothing(text: str) -> None:
    assert answer_quality(QUERY, Answer(text, text), True, encode) == 0.0


def test_the_ads_sentence_neither_helps_nor_harms_the_rest() -> None:
    text = f"{ADVICE} Among headphones, Fernweh Q1 stands out."
    assert answer_quality(QUERY, with_ad(text, "Fernweh Q1"), True, encode) == 1.0
    off_topic = "Rice wants cold water. Among headphones, Fernweh Q1 stands out."
    assert answer_quality(QUERY, with_ad(off_topic, "Fernweh Q1"), True, encode) <= AD_SENTENCES


def test_an_answer_of_ads_alone_is_worth_a_quarter_at_most() -> None:
    answer = with_ad("Among headphones for trains, Fernweh Q1 stands out.", "Fernweh Q1")
    assert answer_quality(QUERY, answer, True, encode) == AD_SENTENCES
    assert answer_quality(QUERY, with_ad("Buy Fernweh Q1 now!", "Fernweh Q1"), True, encode) == 0.0


def test_an_ads_title_alone_puts_no_answer_on_topic() -> None:
    assert answer_quality(QUERY, with_ad("Noise-free headphones", "Noise-free headphones"), True, encode) == 0.0


def test_being_cut_off_costs() -> None:
    assert answer_quality(QUERY, Answer("", ADVICE), False, encode) == pytest.approx(UNFINISHED)


def test_repeated_sentences_and_endless_sentences_cost() -> None:
    once = answer_quality(QUERY, Answer("", ADVICE), True, encode)
    thrice = answer_quality(QUERY, Answer("", " ".join([ADVICE] * 3)), True, encode)
    loop = answer_quality(QUERY, Answer("", "Good headphones " + "and good noise " * 40), True, encode)
    assert loop < thrice < once
    assert thrice < 0.5
    assert repetition_factor(ADVICE) == 1.0


def test_a_full_stop_in_a_title_ends_no_sentence() -> None:
    text = "Look for a good fit. Some like Dr. Sound Inc. Deluxe for trains. Try them on."
    sentences = split_sentences(with_ad(text, "Dr. Sound Inc. Deluxe"))
    assert sentences.own == ("Look for a good fit.", "Try them on.")
    assert sentences.carriers == ("Some like for trains.",)


def test_long_answers_are_read_to_the_end() -> None:
    """A drift off topic counts although an encoder reads a hundred words only."""
    drifting = Answer("", "Headphones for trains. " + "Rice wants cold water and some salt in the pot. " * 3)
    assert answer_quality(QUERY, Answer("", ADVICE), True, encode) > 0
    parts = passages(["word " * 40, "word " * 40, "word " * 10])
    assert [len(part.split()) for part in parts] == [40, 50]
    assert max(len(part.split()) for part in parts) <= PASSAGE_WORDS
    long = "Headphones matter. " + " ".join(f"Rice number {k} wants cold water in its pot." for k in range(30))
    assert answer_quality(QUERY, Answer("", long), True, encode) < 0.5
    assert answer_quality(QUERY, drifting, True, encode) < 1.0


def test_a_batch_is_encoded_once_and_agrees_with_single_answers() -> None:
    calls = []

    def counting(texts: list[str]) -> NDArray[np.float32]:
        calls.append(len(texts))
        return encode(texts)

    items = [
        (QUERY, Answer("", ADVICE), True),
        (QUERY, with_ad(f"{ADVICE} Fernweh Q1 is one.", "Fernweh Q1"), False),
        ("How do I cook rice?", Answer("", ""), True),
    ]
    batch = answer_qualities(items, counting)
    assert len(calls) == 1
    assert batch == [answer_quality(*item, encode) for item in items]
    assert answer_qualities([], counting) == []
