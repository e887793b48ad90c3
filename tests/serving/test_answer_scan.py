"""The scan of answers on their way out: foreign links become text, titles outside a marker get their label."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mechanism.stream import AdPiece, Piece, TextPiece
from mechanism.types import Ad
from serving.answering.scan import LINK, REMOVED, TITLE, AnswerScan
from serving.auction.offers import Offer
from serving.campaigns.types import Campaign, Creative

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def offer(ad_id: str, title: str) -> Offer:
    creative = Creative(id=ad_id, title=title, landing_url="https://shop.example/")
    terms: dict[str, Any] = {"starts_at": NOW, "created_at": NOW, "updated_at": NOW}
    campaign = Campaign(id=ad_id, advertiser_id="a", name="n", category="", bid_micros=1, currency="EUR", **terms)
    return Offer(Ad(ad_id, title, "", "a"), 1, campaign, creative, 1.0)


OFFERS = {"A1": offer("A1", "Falcon Kites"), "A2": offer("A2", "Road Runner Shoes")}


def scanned(pieces: list[str | AdPiece], asked: str = "") -> tuple[str, dict[str, int]]:
    scan = AnswerScan(OFFERS, asked)
    found: list[Piece] = []
    for piece in pieces:
        found += scan.feed([TextPiece(piece) if isinstance(piece, str) else piece])
    found += scan.finish()
    text = "".join(piece.text if isinstance(piece, TextPiece) else f"<{piece.ad_id}>" for piece in found)
    return text, dict(scan.edits)


CASES = [
    ("Read http://evil.example/a?b=1 now.", f"Read {REMOVED} now.", {LINK: 1}),
    ("Read [this page](https://evil.example/x) now.", "Read this page now.", {LINK: 1}),
    ("Go to www.evil.example or evil.com today.", f"Go to {REMOVED} or {REMOVED} today.", {LINK: 2}),
    ("See kites.win or kites.pl/now today.", f"See {REMOVED} or {REMOVED} today.", {LINK: 2}),
    ("Falcon Kites are fine.", "Falcon Kites (Sponsored) are fine.", {TITLE: 1}),
    ("A falcon and kites, e.g. two (or three).", "A falcon and kites, e.g. two (or three).", {}),
    ("Use a[0] and f(x) in 3.5 steps.", "Use a[0] and f(x) in 3.5 steps.", {}),
]


@given(st.sampled_from(CASES), st.lists(st.integers(1, 12), max_size=40))
def test_edits_do_not_depend_on_how_the_answer_is_streamed(
    case: tuple[str, str, dict[str, int]], sizes: list[int]
) -> None:
    text, wanted, edits = case
    deltas, at = [], 0
    for size in sizes:
        deltas.append(text[at : at + size])
        at += size
    assert scanned([*filter(None, deltas), *([text[at:]] if text[at:] else [])]) == (wanted, edits)


def test_what_the_reader_named_stays() -> None:
    assert scanned(["Falcon Kites at kites.com"], "are falcon kites at kites.com good?") == (
        "Falcon Kites at kites.com",
        {},
    )


def test_name_after_its_labelled_link_is_a_reference() -> None:
    assert scanned([AdPiece("A1", "Falcon Kites"), " and Falcon Kites again"])[0] == "<A1> and Falcon Kites again"


@given(st.text(alphabet="abc .,!?[]()", max_size=60))
def test_text_without_links_and_titles_is_unchanged(text: str) -> None:
    if "](" not in text:
        assert scanned([text]) == (text, {})


def test_answers_are_scanned_plain_and_streamed(start: Callable[..., Any]) -> None:
    server = start("Brand1 Running ", "Shoes at http://ev", "il.example/x or {A2}.")
    for text in (server.ask()["choices"][0]["message"]["content"], server.post(stream=True).text):
        assert "evil.example" not in text
        assert "(Sponsored)" in text
    assert 'llm_auction_answer_edits_total{kind="foreign_link"} 2.0' in server.get("/metrics").text
