"""The incremental parser of an answer: raw deltas in, plain text and ads out.

The rules are those of `mechanism.markers`. This module holds back text that is not decided yet, records spans and
offsets, and closes the gaps that removed markers leave. Links, labels and transport belong to the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mechanism.markers import MALFORMED, MarkerRules
from mechanism.types import Ad, AdId, Answer, Fault, Insertion

_SYNTAX = re.compile(r"[@\[\]]")


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Plain text, shown unchanged."""

    text: str


@dataclass(frozen=True, slots=True)
class AdPiece:
    """An ad, shown as a labelled link with the text `title`."""

    ad_id: AdId
    title: str


Piece = TextPiece | AdPiece


class MarkerStream:
    """Incremental parser of one answer: `feed` every delta, then `finish`, then `answer`.

    The concatenated texts and titles of the pieces are `Answer.text`, and the answer equals `markers.parse` of the same
    raw text for any deltas. At most `MarkerRules.look_ahead` characters are held back. An ad whose title or id contains
    marker syntax is an InputError.
    """

    def __init__(self, ads: Iterable[Ad]) -> None:
        self._rules = MarkerRules(ads)
        self._raw = ""
        self._at = 0  # first undecided character of _raw
        self._text = ""
        self._insertions: list[Insertion] = []
        self._faults: list[Fault] = []
        self._ready: list[Piece] = []
        self._gap = False  # a marker was removed after a blank: drop the blanks that follow it
        self._finished = False

    def feed(self, delta: str) -> list[Piece]:
        """Parse the next raw text; return the pieces that are now decided.

        Raises:
            RuntimeError: if the stream is finished.
        """
        if self._finished:
            raise RuntimeError("the stream is finished: create a new MarkerStream for the next answer")
        self._raw += delta
        return self._advance(final=False)

    def finish(self) -> list[Piece]:
        """End the text, also on a deadline or an abort; return the last pieces. A second call returns none."""
        self._finished = True
        return self._advance(final=True)

    def answer(self) -> Answer:
        """Return the parsed answer.

        Raises:
            RuntimeError: before `finish`, while the end of the text is not decided.
        """
        if not self._finished:
            raise RuntimeError("call finish() before answer(): the end of the text is not decided yet")
        return Answer(self._raw, self._text, tuple(self._insertions), tuple(self._faults))

    def _advance(self, final: bool) -> list[Piece]:
        raw = self._raw
        while self._at < len(raw):
            syntax = _SYNTAX.search(raw, self._at)
            plain_end = syntax.start() if syntax else len(raw)
            self._show(raw[self._at : plain_end])
            self._at = plain_end
            if syntax is None:
                break
            if syntax.group() == "]":
                self._close_bracket()
                continue
            span = self._rules.decide(raw, self._at, final)
            if span is None:
                break
            if span.ad is not None:
                self._insert(span.ad)
            elif span.visible:
                self._show(span.visible)
            else:
                self._remove(span.fault, span.length)
            self._at += span.length
        ready, self._ready = self._ready, []
        return ready

    def _show(self, text: str) -> None:
        if self._gap:
            text = text.lstrip(" ")
        if not text:
            return
        self._gap = False
        self._text += text
        if self._ready and isinstance(last := self._ready[-1], TextPiece):
            self._ready[-1] = TextPiece(last.text + text)
        else:
            self._ready.append(TextPiece(text))

    def _insert(self, ad: Ad) -> None:
        self._gap = False
        start = len(self._text)
        self._text += ad.title
        self._insertions.append(Insertion(ad.id, start, len(self._text)))
        self._ready.append(AdPiece(ad.id, ad.title))

    def _remove(self, fault: str, length: int) -> None:
        self._faults.append(Fault(fault, self._at, f"{length} characters removed"))
        self._gap = not self._text or self._text[-1].isspace()

    def _close_bracket(self) -> None:
        """Show a "]", unless removals have joined the parts of a candidate's bracketed id."""
        if self._rules.closes_id(self._text):
            self._remove(MALFORMED, 1)
        else:
            self._show("]")
        self._at += 1
