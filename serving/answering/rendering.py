"""Render the parsed pieces of an answer as the reader gets them: labelled Markdown links, and the list of these links.

Every visible ad is labelled, linked and billable. Once the request's maximum is reached, a sentence with a further
ad is left out whole, so that the text holds no unlabelled advertisement.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from mechanism.prose import SENTENCE_END
from mechanism.stream import AdPiece, TextPiece
from mechanism.types import AdId, Answer
from serving.auction.offers import Offer
from serving.campaigns.types import Pricing

LABEL = "Sponsored"
_MARKDOWN = re.compile(r"([\\\[\]*_`<>])")
_OWN_LINK = re.compile(rf"\[((?:\\.|[^\]\\])*)\]\([^()\s]*/c/([^()\s]*)\) \({LABEL}\)")


class ShownCreative(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client may show beside the link: the creative's text, image and video."""

    title: str
    text: str = ""
    image_url: str = ""
    video_url: str = ""


class SponsoredLink(msgspec.Struct, frozen=True):
    """An ad shown in an answer.

    `span` counts Unicode characters of the message content and covers link and label. What the ad bids is private.
    """

    ad_id: AdId
    campaign_id: str
    title: str
    advertiser: str
    span: tuple[int, int]
    label: str
    click_url: str
    currency: str
    pricing: Pricing
    creative: ShownCreative


@dataclass(frozen=True, slots=True)
class VisibleDelta:
    """The next characters of the content; `ad` where they are a sponsored link."""

    content: str
    ad: SponsoredLink | None = None


class DeltaQueue:
    """The deltas between the task that writes an answer and the one that sends it. Used on one event loop."""

    def __init__(self) -> None:
        self._ready: list[VisibleDelta] = []
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, deltas: list[VisibleDelta]) -> None:
        """Add deltas."""
        self._ready += deltas
        self._wake()

    def clear(self) -> None:
        """Drop the deltas that were not taken."""
        self._ready.clear()

    def close(self) -> None:
        """Mark the end of the answer: `take` returns an empty list once all deltas are taken."""
        self._closed = True
        self._wake()

    async def take(self) -> list[VisibleDelta]:
        """Return the deltas since the last call, after waiting for the first one; empty at the end."""
        while not self._ready and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.take_ready()

    def take_ready(self) -> list[VisibleDelta]:
        """Return the deltas since the last call without waiting."""
        ready, self._ready = self._ready, []
        return ready

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class VisibleAnswer:
    """The visible part of one answer, and the ads in it.

    `offers` are the candidates by id; `click_url` returns the address of an offer's link.
    """

    def __init__(self, offers: Mapping[AdId, Offer], click_url: Callable[[Offer], str], max_ads: int) -> None:
        self._offers = offers
        self._click_url = click_url
        self._max_ads = max_ads
        self._length = 0
        self._last_character = ""
        self._held_back = ""
        self._over_limit = False
        self.ads: list[SponsoredLink] = []
        self.left_out: list[AdId] = []

    def add(self, pieces: Iterable[TextPiece | AdPiece]) -> list[VisibleDelta]:
        """Return the deltas that these pieces complete; after the last allowed link, whole sentences only."""
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
        """Return the text that was held back, at the end of the answer."""
        held, self._held_back = self._held_back, ""
        return self._sentence(held)

    def relink(self, deltas: Iterable[VisibleDelta]) -> list[VisibleDelta]:
        """Return the deltas with links made now: those of an answer that is sent as a whole are sent at its end.

        The ads in it get the same addresses.
        """
        relinked = [delta if delta.ad is None else self._relinked(delta.content, delta.ad) for delta in deltas]
        self.ads = [delta.ad for delta in relinked if delta.ad is not None]
        return relinked

    def _text(self, text: str) -> list[VisibleDelta]:
        if len(self.ads) < self._max_ads:
            return self._show(text)
        *complete, self._held_back = SENTENCE_END.split(self._held_back + text)
        return [delta for sentence in complete for delta in self._sentence(sentence)]

    def _sentence(self, sentence: str) -> list[VisibleDelta]:
        if not self._over_limit:
            return self._show(sentence)
        self._over_limit = False
        if not self._last_character or self._last_character.isspace():
            return []
        return self._show(" " if self._last_character in ".!?" else ". ")

    def _link(self, piece: AdPiece) -> list[VisibleDelta]:
        offer = self._offers[piece.ad_id]
        # Markdown reads a link after "!" as an image, and none after a backslash.
        gap = self._show(" ") if self._last_character in ("!", "\\") else []
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
            currency=offer.campaign.currency,
            pricing=offer.campaign.pricing,
            creative=ShownCreative(creative.title, creative.text, creative.image_url, creative.video_url),
        )
        self.ads.append(ad)
        return [*gap, *self._show(content, ad)]

    def _relinked(self, content: str, ad: SponsoredLink) -> VisibleDelta:
        url = self._click_url(self._offers[ad.ad_id])
        return VisibleDelta(
            content.replace(f"({ad.click_url})", f"({url})"), msgspec.structs.replace(ad, click_url=url)
        )

    def _show(self, content: str, ad: SponsoredLink | None = None) -> list[VisibleDelta]:
        if not content:
            return []
        self._length += len(content)
        self._last_character = content[-1]
        return [VisibleDelta(content, ad)]


def rendered_with_titles(
    answer: Answer, offers: Mapping[AdId, Offer], max_ads: int
) -> tuple[str, list[tuple[AdId, int, int]]]:
    """Return the visible text with bare titles in place of links, and the titles as (ad, start, end) in characters."""
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


def own_links(content: str) -> list[str]:
    """Return the tokens of the router's own labelled links in an earlier answer."""
    return [token for _, token in _OWN_LINK.findall(content)]


def without_links(content: str) -> str:
    """Replace the router's own links in an earlier answer by their titles, so that no click token enters a prompt."""
    return _OWN_LINK.sub(lambda found: re.sub(r"\\(.)", r"\1", found[1]), content)
