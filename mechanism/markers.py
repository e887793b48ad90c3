"""The marker `@Ad Title@[Ad-ID]`: how it is written, when it is valid, and what a reader sees of an invalid one.

The rules are pure and read at most `MarkerRules.look_ahead` characters past an "@". `mechanism.stream` applies them to
a text that arrives in pieces; `parse` feeds that stream once. `mechanism.sanitize` decides which titles and texts an
advertiser may use.

The parser makes these changes to raw text, and no others:

* A valid marker, a candidate's title verbatim with that candidate's id, becomes the title. Every valid marker in the
  raw text survives, whatever surrounds it, because neither part of a marker contains "@", "[" or "]".
* A marker-shaped text `@...@[...]` that is not valid is removed whole, so that neither the title of an unknown ad nor
  an altered title is shown.
* `@[...]` (no title) is removed whole. If the bracket is never closed, the syntax, the title and the first characters
  of the id (up to a blank) are removed; the words after them stay.
* An "@" without an "@[" on the same line, within the length of the longest title, opens no marker. It is removed and
  the text after it stays, unless it is harmless: part of an e-mail address, a spaced "@ 5pm", a handle in small
  letters, or code (`@name(`, `@scope/name`, a decorator alone on its line) that does not begin a candidate's title.
* A candidate's id in brackets without "@" (`[ad-7]`) is removed: it is the end of a broken marker.
* The beginning of a candidate's marker is removed at the end of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mechanism.errors import InputError
from mechanism.types import Ad, AdId, Answer

MALFORMED: Final = "malformed"
"""Part of a marker's syntax is missing: no title, no id, an unclosed bracket, a lone "@" or bracketed id."""
NESTED: Final = "nested"
"""A second "@" follows an opened marker before its id."""
UNTERMINATED: Final = "unterminated"
"""The text ends inside a marker."""
UNKNOWN_AD: Final = "unknown_ad"
"""The marker is well formed, but no candidate of this request has its id (an invented or foreign ad)."""
ALTERED_TITLE: Final = "altered_title"
"""The id is a candidate's, but the title is not that candidate's title verbatim."""
FAULT_KINDS: Final = (MALFORMED, NESTED, UNTERMINATED, UNKNOWN_AD, ALTERED_TITLE)

RESERVED: Final = "@[]"
"""The characters of the syntax; no title and no id contains them."""
MAX_TITLE: Final = 80
"""Longest clean title, in characters."""
MAX_ID: Final = 64
"""Longest clean ad id, in characters."""

_TITLE_END = re.compile(r"[@\n\r]")
_ID_END = re.compile(r"[@\[\]\n\r]")
_ID_BEGINNING = re.compile(r"[^\s@\[\]]*")
_LOCAL_PART = re.compile(r"[A-Za-z0-9._%+-]")
_MAIL_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")
_SPACED = re.compile(r" [A-Za-z0-9]+")
_HANDLE = re.compile(r"[a-z_][a-z0-9_]{1,29}(?![A-Za-z0-9_])")
_CODE = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*(?=[/\n\r])|[A-Za-z_][A-Za-z0-9_.]*(?=\()")


def marker_body(ad: Ad) -> str:
    """Return what follows the opening "@": `Ad Title@[Ad-ID]`.

    An ad whose title or id contains marker syntax is an InputError, here and in the functions below.
    """
    _check(ad)
    return f"{ad.title}@[{ad.id}]"


def render_marker(ad: Ad) -> str:
    """Return the whole marker, `@Ad Title@[Ad-ID]`."""
    return "@" + marker_body(ad)


def parse(raw: str, ads: Iterable[Ad]) -> Answer:
    """Parse a complete raw answer against the request's candidates.

    In `Answer.text` every valid marker is replaced by its title; `insertions` are the spans of these titles, and
    `faults` lists what was removed, by raw offset.
    """
    from mechanism.stream import MarkerStream  # here, because the stream imports this module's rules

    stream = MarkerStream(ads)
    stream.feed(raw)
    stream.finish()
    return stream.answer()


@dataclass(frozen=True, slots=True)
class ParsedSpan:
    """The parser's decision on the next `length` raw characters.

    They become the insertion of `ad`, the plain text `visible`, or nothing, with a `fault` of FAULT_KINDS.
    """

    length: int
    visible: str = ""
    ad: Ad | None = None
    fault: str = ""


class MarkerRules:
    """The rules of this module for one request's candidates.

    `decide` returns None while the text so far allows more than one decision. A decision holds for every longer text,
    so the way a text is cut into pieces cannot change what a reader sees.
    """

    def __init__(self, ads: Iterable[Ad]) -> None:
        self.ads: dict[AdId, Ad] = {}
        for ad in ads:
            _check(ad)
            if self.ads.setdefault(ad.id, ad).title != ad.title:
                raise InputError("candidates", ad.id, "give each ad of a request its own id")
        self._titles = tuple({ad.title.casefold() for ad in self.ads.values()})
        self._bodies = tuple(f"{ad.title}@[{ad.id}]".casefold() for ad in self.ads.values())
        self._brackets = tuple(f"[{ad_id}]" for ad_id in self.ads)
        self._title_limit = max([MAX_TITLE, *(len(ad.title) for ad in self.ads.values())])
        self._id_limit = max([MAX_ID, *(len(ad_id) for ad_id in self.ads)])
        self.look_ahead = self._title_limit + self._id_limit + len("@[]")

    def decide(self, raw: str, at: int, final: bool) -> ParsedSpan | None:
        """Decide on the "@" or "[" at `raw[at]`; `final` if no text will follow `raw`."""
        return self._bracket(raw, at, final) if raw[at] == "[" else self._marker(raw, at, final)

    def closes_id(self, visible: str) -> bool:
        """Return whether a "]" after this visible text would complete a candidate's bracketed id."""
        return any(visible.endswith(bracket[:-1]) for bracket in self._brackets)

    def _marker(self, raw: str, at: int, final: bool) -> ParsedSpan | None:
        start = at + 1
        if raw.startswith("[", start):
            return self._id(raw, at, start, final)
        limit = start + self._title_limit + 1
        end = _TITLE_END.search(raw, start, limit)
        if end is None:
            if len(raw) >= limit:
                return self._lone(raw, at, limit, MALFORMED)
            return self._ended(raw, at) if final else None
        if end.group() != "@":
            return self._lone(raw, at, end.end(), MALFORMED)
        if end.end() == len(raw):
            return self._ended(raw, at) if final else None
        if raw[end.end()] != "[":
            return self._lone(raw, at, end.start(), NESTED)
        return self._id(raw, at, end.end(), final)

    def _id(self, raw: str, at: int, bracket: int, final: bool) -> ParsedSpan | None:
        """Decide from the "[" of "@[" at `raw[bracket]` on; the title is between the opening "@" and this "@["."""
        start = bracket + 1
        limit = start + self._id_limit + 1
        end = _ID_END.search(raw, start, limit)
        if end is not None and end.group() == "]":
            length, title = end.end() - at, raw[at + 1 : bracket - 1]
            ad = self.ads.get(raw[start : end.start()])
            if not title:
                return ParsedSpan(length, fault=MALFORMED)
            if ad is None:
                return ParsedSpan(length, fault=UNKNOWN_AD)
            return ParsedSpan(length, ad=ad) if title == ad.title else ParsedSpan(length, fault=ALTERED_TITLE)
        ends_here = end is None and len(raw) < limit
        if ends_here and not final:
            return None
        beginning = _ID_BEGINNING.match(raw, start, limit - 1)
        stop = beginning.end() if beginning else start
        return ParsedSpan(stop - at, fault=UNTERMINATED if ends_here else MALFORMED)

    def _lone(self, raw: str, at: int, end: int, fault: str) -> ParsedSpan:
        """Decide on an "@" that opens no marker; `raw[at + 1 : end]` is the text read after it."""
        before, section = raw[at - 1 : at] if at else "", raw[at + 1 : end]
        mail = _MAIL_DOMAIN.match(section) if _LOCAL_PART.fullmatch(before) else None
        shape = mail or _SPACED.match(section) or _CODE.match(section) or _HANDLE.match(section)
        if shape is None or self._touches_title(section.lstrip().casefold(), shape.group().strip().casefold()):
            return ParsedSpan(1, fault=fault)
        return ParsedSpan(1, visible="@")

    def _touches_title(self, section: str, word: str) -> bool:
        return any(section.startswith(title) or title.startswith(word) for title in self._titles)

    def _ended(self, raw: str, at: int) -> ParsedSpan:
        """Decide on a text that ends before the id: remove the beginning of a candidate's marker, keep other words."""
        beginning = raw[at + 1 :].lstrip().casefold()
        if not beginning or any(body.startswith(beginning) for body in self._bodies):
            return ParsedSpan(len(raw) - at, fault=UNTERMINATED)
        return self._lone(raw, at, len(raw), UNTERMINATED)

    def _bracket(self, raw: str, at: int, final: bool) -> ParsedSpan | None:
        for bracket in self._brackets:
            if raw.startswith(bracket, at):
                return ParsedSpan(len(bracket), fault=MALFORMED)
        rest = raw[at : at + self._id_limit + 2]
        if at + len(rest) < len(raw) or not any(bracket.startswith(rest) for bracket in self._brackets):
            return ParsedSpan(1, visible="[")
        if not final:
            return None
        return ParsedSpan(len(rest), fault=UNTERMINATED) if len(rest) > 1 else ParsedSpan(1, visible="[")


def _check(ad: Ad) -> None:
    if not ad.title or ad.title != ad.title.strip() or re.search(r"[@\[\]\n\r]", ad.title):
        raise InputError(f"title of ad {ad.id!r}", ad.title, "clean it with mechanism.sanitize.clean_title")
    if not ad.id or re.search(r"[@\[\]\s]", ad.id):
        raise InputError("ad id", ad.id, "use letters, digits, '.', '_', ':' and '-'")
