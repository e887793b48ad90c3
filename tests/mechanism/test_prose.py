"""Sentences, the sentence that carries an ad, and repeated runs of words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.markers import parse, render_marker
from mechanism.prose import SENTENCE, Carrier, carrier, echo, runs
from mechanism.types import Ad

SHOES = Ad("a1", "Kestrel Shoes", "", "Kestrel")
BAND = Ad("a2", "Go! Band", "", "Go")


def test_the_carrier_is_the_sentence_of_the_ad_without_titles() -> None:
    raw = f"It depends. I like {render_marker(SHOES)} a lot. Or {render_marker(BAND)}?"
    answer = parse(raw, [SHOES, BAND])
    assert carrier(answer, SHOES) == Carrier("I like it a lot.", opens=False, echo=0.0)
    assert carrier(parse(render_marker(SHOES), [SHOES]), SHOES) == Carrier("it", opens=True, echo=0.0)


def test_a_title_with_a_final_mark_is_still_replaced_as_a_whole() -> None:
    answer = parse(f"It depends. Or {render_marker(BAND)} then?", [BAND])
    assert carrier(answer, BAND).text == "Or it"


def test_a_sentence_that_repeats_an_earlier_one_echoes() -> None:
    first, second = (f"People in the valley are happy with {render_marker(ad)} for years." for ad in (SHOES, BAND))
    answer = parse(f"{first} {second}", [SHOES, BAND])
    assert carrier(answer, SHOES).echo == 0.0
    assert carrier(answer, BAND).echo == pytest.approx(1.0)


def test_runs_ignore_case_and_punctuation() -> None:
    assert runs("Dry, warm FEET!") == [("dry", "warm", "feet")]
    assert runs("two words") == []
    assert echo("Two words", ["two words"]) == 0.0


@given(st.text(alphabet="ab .!?\n"))
def test_sentences_cover_the_whole_text(text: str) -> None:
    assert "".join(match.group() for match in SENTENCE.finditer(text)) == text
