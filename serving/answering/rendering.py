"""From the parsed pieces of an answer to what a reader gets: labelled Markdown links and their list.

Every ad that is visible is labelled, linked and billable; past the request's maximum the sentence that would hold one
more is left out whole, so that no advertisement stands in the text without its label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from mechanism.prose import SENTENCE_END
from mechanism.stream import AdPiece, TextPiece
from mechanism.types import AdId, Answer, Micros
from serving.auction.offers import Offer
from serving.campaigns.types import Pricing

LABEL = "Sponsored"
_MARKDOWN = re.compile(r"([\\\[\]*_`<>])")
_OWN_LINK = re.compile(rf"\[((?:\\.|[^\]\\])*)\]\([^()\s]*/c/[^()\s]*\) \({LABEL}\)")


class ShownCreative(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be drawn beside the link: the creative's text and, where it has them, its picture and its film."""

    title: str
    text: str = ""
    image_url: str = ""
    video_url: str = ""


class SponsoredLink(msgspec.Struct, frozen=True):
    """An ad shown in an answer. `span` counts Unicode characters of the message content and covers link and label;
    `bid_micros` is its bid in this auction, in micros of `currency`: under `pricing` "click" what a click costs."""

    ad_id: AdId
    campaign_id: str
    title: str
    advertiser: str
    span: tuple[int, int]
    label: str
    click_url: str
    bid_micros: Micros
    currency: str
    pricing: Pricing
    creative: ShownCreative


@dataclass(frozen=True, slots=True)
class VisibleDelta:
    """The next characters of the content; `ad` where they are a sponsored link."""

    content: str
    ad: SponsoredLink | None = None


class VisibleAnswer:
    """Collects one answer. `offers` are the candidates by id, `click_url` makes the address of one's link."""

    def __init__(self, offers: Mapping[AdId, Offer], click_url: Callable[[Offer], str], max_ads: int) -> None:
        self._offers = offers
        self._click_url = click_url
        self._max_ads = max_ads
        self._length = 0
        self._last = ""
        self._held = ""
        self._over_limit = False
        self.ads: list[SponsoredLink] = []
        self.left_out: list[AdId] = []

    def add(self, pieces: Iterable[TextPiece | AdPiece]) -> list[VisibleDelta]:
        """What can be shown after these pieces; text is held back to the sentence's end once the links are used up."""
        shown: list[VisibleDelta] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                shown += self._text(piece.text)
            elif len(self.ads) < self._max_ads:
                shown += self._link(piece)
            else:
                self._over_limit = True
                self.left_out.append(piece.ad_id)
        return shown

    def finish(self) -> list[VisibleDelta]:
        """What was held back at the end of the answer."""
        held, self._held = self._held, ""
        return self._sentence(held)

    def _text(self, text: str) -> list[VisibleDelta]:
        if len(self.ads) < self._max_ads:
            return self._show(text)
        *complete, self._held = SENTENCE_END.split(self._held + text)
        return [delta for sentence in complete for delta in self._sentence(sentence)]

    def _sentence(self, sentence: str) -> list[VisibleDelta]:
        if not self._over_limit:
            return self._show(sentence)
        self._over_limit = False
        if not self._last or self._last.isspace():
            return []
        return self._show(" " if self._last in ".!?" else ". ")

    def _link(self, piece: AdPiece) -> list[VisibleDelta]:
        offer = self._offers[piece.ad_id]
        # After "!" Markdown would read an image, after a backslash no link at all.
        gap = self._show(" ") if self._last in ("!", "\\") else []
        url = self._click_url(offer)
        title = _MARKDOWN.sub(r"\\\1", piece.title)
        content = f"[{title}]({url}) ({LABEL})"
        creative = offer.creative
        ad = SponsoredLink(
            ad_id=piece.ad_id,
            campaign_id=offer.campaign.id,
            title=piece.title,
            advertiser=offer.ad.advertiser,
            span=(self._length, self._length + len(content)),
            label=LABEL,
            click_url=url,
            bid_micros=offer.bid,
            currency=offer.campaign.currency,
            pricing=offer.campaign.pricing,
            creative=ShownCreative(creative.title, creative.text, creative.image_url, creative.video_url),
        )
        self.ads.append(ad)
        return [*gap, *self._show(content, ad)]

    def _show(self, content: str, ad: SponsoredLink | None = None) -> list[VisibleDelta]:
        if not content:
            return []
        self._length += len(content)
        self._last = content[-1]
        return [VisibleDelta(content, ad)]


def as_read(answer: Answer, offers: Mapping[AdId, Offer], max_ads: int) -> tuple[str, list[tuple[AdId, int, int]]]:
    """The text that a reader of this answer saw, each link standing as its bare title, and where these titles are, as
    (ad, start, end) in characters."""
    visible = VisibleAnswer(offers, lambda _: "", max_ads)
    text, spans = "", []
    for delta in [*visible.add(_pieces(answer)), *visible.finish()]:
        if delta.ad is None:
            text += delta.content
        else:
            spans.append((delta.ad.ad_id, len(text), len(text) + len(delta.ad.title)))
            text += delta.ad.title
    return text, spans


def _pieces(answer: Answer) -> Iterator[TextPiece | AdPiece]:
    at = 0
    for insertion in answer.insertions:
        if insertion.start > at:
            yield TextPiece(answer.text[at : insertion.start])
        yield AdPiece(insertion.ad_id, answer.text[insertion.start : insertion.end])
        at = insertion.end
    if at < len(answer.text):
        yield TextPiece(answer.text[at:])


def without_links(content: str) -> str:
    """An earlier answer as the policy should read it: our own links back to their titles, click tokens gone."""
    return _OWN_LINK.sub(lambda found: re.sub(r"\\(.)", r"\1", found[1]), content)
