"""The last check of an answer before it leaves: links that the policy wrote itself, and titles without their label.

A policy may copy what a creative, or its training, planted. Links to places that the reader did not name become plain
text, and a candidate's title that stands outside its marker gets the label. The text is read word by word: a word, and
the beginning of a title, is held back until it is known what it becomes, so that streamed answers are scanned as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from mechanism.stream import AdPiece, Piece, TextPiece
from mechanism.types import AdId
from serving.answering.rendering import LABEL
from serving.auction.offers import Offer
from serving.campaigns.screening.rules import TOP_LEVEL_DOMAINS

LINK, TITLE = "foreign_link", "unlabelled_title"
REMOVED = "(link removed)"
LONGEST_WORD = 2_100
"""Characters of one word that are held back: an address may be that long."""
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]{0,300})\]\([^()\s]*(?:\s[^()]*)?\)")
_ADDRESS = re.compile(
    r"(?i)<?\b(?:https?|ftp|hxxps?|javascript|data|mailto|tel):[^\s<>()\[\]]+>?|\bwww\.[^\s<>()\[\]]+|[\w.+-]+@[\w-]+\.[\w.-]*\w"
    rf"|\b(?:[a-z0-9-]+\.)+(?:{TOP_LEVEL_DOMAINS})\b(?:/[^\s<>()\[\]]*)?"
)
_OPEN_LINK = re.compile(r"!?\[[^\[\]]{0,300}(?:\](?:\([^()\n]{0,2100})?)?$")


class AnswerScan:
    """The scan of one answer with offers; links and names in `asked`, what the reader wrote, stay as they are."""

    def __init__(self, offers: Mapping[AdId, Offer], asked: str) -> None:
        self._asked = asked.casefold()
        self._titles = {
            offer.ad.title: ad_id
            for ad_id, offer in offers.items()
            if " " in offer.ad.title.strip() and offer.ad.title.casefold() not in self._asked
        }
        self._held = ""
        self.edits: Counter[str] = Counter()
        """How often each kind of edit was made."""

    def feed(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Return the pieces whose text is decided."""
        found: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, AdPiece):
                found += [*self.finish(), piece]
                self._titles.pop(piece.title, None)  # from its link on, a name is a reference to what was labelled
            else:
                self._held += piece.text
                cut = self._decided()
                if cut:
                    found.append(TextPiece(self._edited(self._held[:cut])))
                    self._held = self._held[cut:]
        return found

    def finish(self) -> list[Piece]:
        """Return what was held back, before a link or at the end of the answer."""
        held, self._held = self._held, ""
        return [TextPiece(self._edited(held))] if held else []

    def _decided(self) -> int:
        """Return the number of characters that no later text can make part of a link or a title."""
        text = self._held
        cut = len(text)
        last_word = re.search(r"\S+$", text)
        if last_word is not None and cut - last_word.start() <= LONGEST_WORD:
            cut = last_word.start()
        if (opened := _OPEN_LINK.search(text)) is not None:
            cut = min(cut, opened.start())
        longest = max(map(len, self._titles), default=0)
        for start in re.finditer(r"(?<!\w)\w", text[max(0, len(text) - longest - 1) :]):
            at = max(0, len(text) - longest - 1) + start.start()
            if at < cut and any(len(title) >= len(text) - at and title.startswith(text[at:]) for title in self._titles):
                cut = at
        return cut

    def _edited(self, text: str) -> str:
        text = _MARKDOWN_LINK.sub(self._unlinked, text)
        text = _ADDRESS.sub(self._without_address, text)
        for title in list(self._titles):
            text = re.sub(rf"(?<!\w){re.escape(title)}(?!\w)(?! \({LABEL}\))", self._labelled, text)
        return text

    def _unlinked(self, found: re.Match[str]) -> str:
        self.edits[LINK] += 1
        return found[1]

    def _without_address(self, found: re.Match[str]) -> str:
        if found[0].strip("<>").rstrip(".,").casefold() in self._asked:
            return found[0]
        self.edits[LINK] += 1
        return REMOVED

    def _labelled(self, found: re.Match[str]) -> str:
        self.edits[TITLE] += 1
        return f"{found[0]} ({LABEL})"
