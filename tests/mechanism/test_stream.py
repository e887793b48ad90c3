"""The incremental parser: any chunking gives the same answer, and no adversarial text shows marker syntax."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.markers import MarkerRules, parse, render_marker
from mechanism.stream import AdPiece, MarkerStream, Piece, TextPiece
from mechanism.types import Ad, Answer

ADS = (
    Ad("a1", "Kestrel Shoes", "", "K"),
    Ad("a12", "Kestrel Shoes Pro", "", "K"),
    Ad("b-2", "example.com", "", "E"),
    Ad("zoe", "zoe", "", "Z"),
)
MARKER = re.compile("|".join(re.escape(render_marker(ad)) for ad in ADS))

fragments = st.sampled_from(
    [
        *"@[] \n",
        "@",
        "@[",
        "]",
        "@@",
        "[[",
        "  ",
        "x",
        "é",
        "5pm",
        "bob",
        "@example.com",
        "@ ",
        "@zo",
        "Acme Pills",
        "@Acme Pills@[zz]",
        "@Acme",
        "a1",
        "[a1]",
        "[a1",
        "a1]",
        "[b-",
        "\u200b",
        "\r\n",
        "(",
        "/",
        *(render_marker(ad) for ad in ADS),
        *(ad.title for ad in ADS),
        *("@" + ad.title for ad in ADS),
        *(f"@[{ad.id}]" for ad in ADS),
        "k" * 90,
    ]
)
raw_texts = st.lists(st.one_of(fragments, st.text(max_size=3)), max_size=14).map("".join)


@st.composite
def mutated_markers(draw: st.DrawFn) -> str:
    """Draw text with valid markers, some characters of which are deleted, doubled or replaced."""
    parts = draw(st.lists(st.sampled_from([render_marker(ad) for ad in ADS] + ["so ", " is good.\n"]), max_size=6))
    raw = list("".join(parts))
    for _ in range(draw(st.integers(0, 5))):
        if raw:
            at = draw(st.integers(0, len(raw) - 1))
            raw[at] = draw(st.sampled_from(["", raw[at] * 2, "@", "[", "]", "\n", " ", "k", raw[at].upper()]))
    return "".join(raw)


raws = st.one_of(raw_texts, mutated_markers())


def stream(raw: str, cuts: list[int]) -> tuple[list[Piece], Answer]:
    edges = [0, *sorted(c % (len(raw) + 1) for c in cuts), len(raw)]
    reader = MarkerStream(ADS)
    pieces = [p for a, b in pairwise(edges) for p in reader.feed(raw[a:b])]
    return pieces + reader.finish(), reader.answer()


def shown(pieces: list[Piece]) -> str:
    return "".join(p.text if isinstance(p, TextPiece) else p.title for p in pieces)


@settings(max_examples=600, deadline=None)
@given(raws, st.lists(st.integers(0, 400), max_size=12))
def test_any_chunking_gives_the_answer_of_parse(raw: str, cuts: list[int]) -> None:
    pieces, answer = stream(raw, cuts)
    assert answer == parse(raw, ADS)
    assert shown(pieces) == answer.text
    assert [p.ad_id for p in pieces if isinstance(p, AdPiece)] == [i.ad_id for i in answer.insertions]
    assert all(p.text for p in pieces if isinstance(p, TextPiece))


@settings(max_examples=200, deadline=None)
@given(raws)
def test_character_by_character_gives_the_answer_of_parse(raw: str) -> None:
    assert stream(raw, list(range(len(raw) + 1)))[1] == parse(raw, ADS)


@settings(max_examples=600, deadline=None)
@given(raws)
def test_insertions_are_exactly_the_valid_markers_of_the_raw_text(raw: str) -> None:
    answer = parse(raw, ADS)
    titles = {ad.id: ad.title for ad in ADS}
    assert [f"@{titles[i.ad_id]}@[{i.ad_id}]" for i in answer.insertions] == MARKER.findall(raw)
    for insertion in answer.insertions:
        assert answer.text[insertion.start : insertion.end] == titles[insertion.ad_id]


@settings(max_examples=800, deadline=None)
@given(raws)
def test_no_marker_syntax_is_ever_visible(raw: str) -> None:
    text = parse(raw, ADS).text
    assert "@[" not in text
    assert not re.search(r"@[^@\n\r]*@\[", text)
    for ad in ADS:
        assert f"[{ad.id}]" not in text
        assert f"@{ad.title}" not in text
    for foreign in re.findall(r"@([^@\[\]\n\r]{3,80})@\[[^@\[\]\n\r]{0,64}\]", MARKER.sub("\n", raw)):
        assert f"@{foreign}" not in text


@settings(max_examples=300, deadline=None)
@given(raws, st.integers(0, 400))
def test_shown_text_is_never_revoked(raw: str, cut: int) -> None:
    """The text shown so far begins the text of every continuation, and contains no marker syntax."""
    cut %= len(raw) + 1
    reader = MarkerStream(ADS)
    early = shown(reader.feed(raw[:cut]))
    assert parse(raw, ADS).text.startswith(early)
    assert "@[" not in early


@settings(max_examples=300, deadline=None)
@given(raws)
def test_held_back_text_is_bounded(raw: str) -> None:
    """Text further back than the look-ahead is decided: shown, or listed as a fault."""
    limit = MarkerRules(ADS).look_ahead
    tail = " end" * (limit // 2)
    early = shown(MarkerStream(ADS).feed(raw + tail))
    assert parse(raw + tail, ADS).text.removeprefix(early).count("end") <= limit // 4 + 1


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="@[]"), max_size=60))
def test_text_without_marker_characters_is_shown_at_once_and_unchanged(raw: str) -> None:
    assert shown(MarkerStream(ADS).feed(raw)) == raw
    assert parse(raw, ADS).faults == ()


@settings(max_examples=200, deadline=None)
@given(raws)
def test_shown_text_contains_no_further_ad(raw: str) -> None:
    assert parse(parse(raw, ADS).text, ADS).insertions == ()


def test_titles_and_ids_longer_than_the_clean_limits_are_recognised() -> None:
    long = Ad("i" * 100, "t" * 200, "", "")
    assert parse(f"x {render_marker(long)} y", [long]).shown() == (long.id,)


def test_a_stream_without_candidates_shows_no_ad() -> None:
    assert parse("Buy @Kestrel Shoes@[a1] now [1]", []).text == "Buy now [1]"


def test_the_order_of_calls_is_checked() -> None:
    reader = MarkerStream(ADS)
    reader.feed("hello @Kestrel")
    with pytest.raises(RuntimeError, match="finish"):
        reader.answer()
    assert reader.finish() == []
    assert reader.finish() == []
    assert reader.answer().text == "hello "
    with pytest.raises(RuntimeError, match="finished"):
        reader.feed("more")
