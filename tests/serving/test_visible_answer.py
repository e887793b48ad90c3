"""The visible answer: every ad is labelled and linked at its span, none past the maximum, never a marker."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.markers import render_marker
from mechanism.stream import AdPiece, MarkerStream, TextPiece
from mechanism.types import Ad
from serving.answering.rendering import VisibleAnswer, rendered_with_titles, without_links
from serving.auction.offers import Offer
from serving.campaigns.catalogue import Listing, campaign_of

ADS = [Ad(f"A{i}", f"Brand{i} Things_{i}*", "text", f"Brand{i}", landing_url="https://x.example") for i in range(1, 5)]
NOW = datetime(2026, 11, 24, tzinfo=UTC)
CAMPAIGNS = {ad.id: campaign_of(Listing(ad, 100_000, "EUR"), NOW) for ad in ADS}
OFFERS = {ad.id: Offer(ad, 100_000, CAMPAIGNS[ad.id], CAMPAIGNS[ad.id].creatives[0], 1.0) for ad in ADS}


def answer(max_ads: int = 3) -> VisibleAnswer:
    return VisibleAnswer(OFFERS, lambda x: f"https://us.example/c/{x.ad.id}.mac", max_ads)


def show(visible: VisibleAnswer, raw: str, cuts: list[int] | None = None) -> str:
    stream, content, last = MarkerStream(ADS), "", 0
    for cut in [*sorted(cuts or []), len(raw)]:
        content += "".join(d.content for d in visible.add(stream.feed(raw[last:cut])))
        last = max(last, cut)
    return content + "".join(d.content for d in [*visible.add(stream.finish()), *visible.finish()])


PARTS = st.one_of(
    st.sampled_from([render_marker(ad) for ad in ADS]),
    st.sampled_from(
        ["@", "[", "]", "@[", "@Foreign Ad@[Z9]", "@Brand1", "@Brand1 Things_1*@[A2]", "!", "\\", ". ", "\n"]
    ),
    st.text(max_size=12),
)


@given(st.lists(PARTS, max_size=12).map("".join), st.integers(1, 4), st.lists(st.integers(0, 200), max_size=8))
def test_spans_labels_and_limit_hold_for_any_text(raw: str, max_ads: int, cuts: list[int]) -> None:
    visible = answer(max_ads)
    content = show(visible, raw, [c for c in cuts if c <= len(raw)])
    assert len(visible.ads) <= max_ads
    for ad in visible.ads:
        link = content[slice(*ad.span)]
        assert link.startswith("[")
        assert link.endswith(f"]({ad.click_url}) (Sponsored)")
        assert content[max(0, ad.span[0] - 1) : ad.span[0]] not in ("!", "\\")
    for ad_id in OFFERS:
        assert f"@[{ad_id}]" not in content
    assert show(answer(max_ads), raw) == content  # the same for any cuts of the text


def test_the_sentence_with_one_ad_too_many_is_left_out() -> None:
    one, two = render_marker(ADS[0]), render_marker(ADS[1])
    visible = answer(max_ads=1)
    content = show(visible, f"Try {one} or {two} today. Measure first. {two} is good. Good luck.")
    link = content[slice(*visible.ads[0].span)]
    assert content == f"Try {link}. Measure first. Good luck."
    assert visible.left_out == ["A2", "A2"]


def test_an_exclamation_mark_does_not_turn_a_link_into_an_image() -> None:
    assert "! [" in show(answer(), "Great!" + render_marker(ADS[0]))


@pytest.mark.parametrize("raw", ["Before {} after.", "{}", "Two: {} and {}."])
def test_links_of_the_router_are_replaced_by_titles(raw: str) -> None:
    markers = raw.replace("{}", render_marker(ADS[0]))
    assert without_links(show(answer(), markers)) == raw.replace("{}", ADS[0].title)


def test_other_links_of_a_conversation_stay() -> None:
    text = "See [docs](https://docs.example/c/x) and (Sponsored) events."
    assert without_links(text) == text


def test_titles_cannot_break_out_of_their_link() -> None:
    visible = answer()
    pieces = [TextPiece("a "), AdPiece("A1", "Brand1 Things_1*")]
    content = "".join(d.content for d in visible.add(pieces))
    assert re.fullmatch(r"a \[Brand1 Things\\_1\\\*\]\(https://us\.example/c/A1\.mac\) \(Sponsored\)", content)


@given(st.lists(PARTS, max_size=12).map("".join), st.integers(1, 3))
def test_the_rendered_text_is_the_streamed_text_with_bare_titles(raw: str, max_ads: int) -> None:
    visible = answer(max_ads)
    content = show(visible, raw)
    stream = MarkerStream(ADS)
    stream.feed(raw)
    stream.finish()
    text, spans = rendered_with_titles(stream.answer(), OFFERS, max_ads)
    bare = content
    for ad in reversed(visible.ads):
        bare = bare[: ad.span[0]] + ad.title + bare[ad.span[1] :]
    assert text == bare
    assert [(ad_id, text[start:end]) for ad_id, start, end in spans] == [(ad.ad_id, ad.title) for ad in visible.ads]
