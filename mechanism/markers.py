"""The marker `@Ad Title@[Ad-ID]`: how it is written, when it is valid, and what a reader sees of a faulty one.

The rules are pure and look at most `MarkerRules.look_ahead` characters past an "@"; `mechanism.stream` applies them to
a text that arrives in pieces, and `parse` is that stream fed once. Whether an ad's words are acceptable at all is
decided in `mechanism.sanitize`.

What is left of raw text (nothing that is not listed here is changed):

* A valid marker has a candidate's title verbatim and that candidate's id: it becomes the title. Every such marker in
  the raw text survives, whatever stands around it, because neither part of a marker contains "@", "[" or "]".
* A marker-shaped text `@...@[...]` that is not valid vanishes whole: the title of an unknown ad is not shown, and
  neither is an altered title.
* `@[...]` (no title) vanishes whole. Where the bracket is never closed, the syntax, the title and the id's beginning
  (the characters up to a blank) vanish, the words after it stay.
* An "@" that no "@[" follows on its line within the longest title opens no marker: it vanishes and the text after it
  stays, unless it is harmless: an e-mail address, a spaced "@ 5pm", or code (`@name(`, `@scope/name`, a decorator
  that fills its line), and does not begin a candidate's title.
* A candidate's id in brackets without "@" (`[ad-7]`) vanishes: it is the end of a broken marker.
* At the end of the text the beginning of a candidate's marker vanishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mechanism.errors import InputError
from mechanism.types import Ad, AdId, Answer

MALFORMED: Final = "malformed"
"""Part of a marker's syntax is missing: no title, no id, an unclosed bracket, an "@" or an id that stands alone."""
NESTED: Final = "nested"
"""A marker was opened, and another "@" came before its id."""
UNTERMINATED: Final = "unterminated"
"""The text ended inside a marker."""
UNKNOWN_AD: Final = "unknown_ad"
"""Well formed, but the id is not among this request's candidates (an invented or foreign ad)."""
ALTERED_TITLE: Final = "altered_title"
"""The id is a candidate's, the title is not that candidate's title verbatim."""
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
_CODE = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*(?=[/\n\r])|[A-Za-z_][A-Za-z0-9_.]*(?=\()")


def marker_body(ad: Ad) -> str:
    """What follows the opening "@": `Ad Title@[Ad-ID]`. Raises InputError for an ad that no marker can carry."""
    _check(ad)
    return f"{ad.title}@[{ad.id}]"


def render_marker(ad: Ad) -> str:
    """The whole marker, `@Ad Title@[Ad-ID]`. Raises InputError for an ad that no marker can carry."""
    return "@" + marker_body(ad)


def parse(raw: str, ads: Iterable[Ad]) -> Answer:
    """Parse a complete raw answer against the request's candidates.

    `Answer.text` has every valid marker replaced by its title, `insertions` their spans in that text, and `faults`
    everything that was taken away, by raw offset. Raises InputError for ads that no marker can carry.
    """
    from mechanism.stream import MarkerStream  # inside: the stream stands on this module's rules

    stream = MarkerStream(ads)
    stream.feed(raw)
    stream.finish()
    return stream.answer()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the next `length` raw characters: the insertion of `ad`, or the plain text `visible`."""

    length: int
    visible: str = ""
    ad: Ad | None = None
    fault: str = ""


class MarkerRules:
    """The rules above for one request's candidates.

    `decide` answers None while the text seen so far allows more than one outcome. An answer once given is the answer
    for every longer text, so that chunking cannot change what a reader sees.
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

    def decide(self, raw: str, at: int, final: bool) -> Verdict | None:
        """The verdict on the "@" or "[" at `raw[at]`; `final` says that no text will follow `raw`."""
        return self._bracket(raw, at, final) if raw[at] == "[" else self._marker(raw, at, final)

    def closes_id(self, visible: str) -> bool:
        """Whether a "]" after this visible text would complete a candidate's bracketed id."""
        return any(visible.endswith(bracket[:-1]) for bracket in self._brackets)

    def _marker(self, raw: str, at: int, final: bool) -> Verdict | None:
        start = at + 1
        if raw.startswith("[", start):
            return self._id(raw, at, start, final)
        limit = start + self._title_limit + 1
        end = _TITLE_END.search(raw, start, limit)
        if end is None:
            if len(raw) >= limit:
                return self._lone(raw, at, limit, MALFORMED)
            return self._cut_off(raw, at) if final else None
        if end.group() != "@":
            return self._lone(raw, at, end.end(), MALFORMED)
        if end.end() == len(raw):
            return self._cut_off(raw, at) if final else None
        if raw[end.end()] != "[":
            return self._lone(raw, at, end.start(), NESTED)
        return self._id(raw, at, end.end(), final)

    def _id(self, raw: str, at: int, bracket: int, final: bool) -> Verdict | None:
        """The part from the "[" of "@[" on; the title is what stands between the opening "@" and "@["."""
        start = bracket + 1
        limit = start + self._id_limit + 1
        end = _ID_END.search(raw, start, limit)
        if end is not None and end.group() == "]":
            length, title = end.end() - at, raw[at + 1 : bracket - 1]
            ad = self.ads.get(raw[start : end.start()])
            if not title:
                return Verdict(length, fault=MALFORMED)
            if ad is None:
                return Verdict(length, fault=UNKNOWN_AD)
            return Verdict(length, ad=ad) if title == ad.title else Verdict(length, fault=ALTERED_TITLE)
        cut_off = end is None and len(raw) < limit
        if cut_off and not final:
            return None
        beginning = _ID_BEGINNING.match(raw, start, limit - 1)
        stop = beginning.end() if beginning else start
        return Verdict(stop - at, fault=UNTERMINATED if cut_off else MALFORMED)

    def _lone(self, raw: str, at: int, end: int, fault: str) -> Verdict:
        """An "@" that opens no marker; `raw[at + 1 : end]` is what was seen after it."""
        before, section = raw[at - 1 : at] if at else "", raw[at + 1 : end]
        mail = _MAIL_DOMAIN.match(section) if _LOCAL_PART.fullmatch(before) else None
        shape = mail or _SPACED.match(section) or _CODE.match(section)
        if shape is None or self._touches_title(section.lstrip().casefold(), shape.group().strip().casefold()):
            return Verdict(1, fault=fault)
        return Verdict(1, visible="@")

    def _touches_title(self, section: str, word: str) -> bool:
        return any(section.startswith(title) or title.startswith(word) for title in self._titles)

    def _cut_off(self, raw: str, at: int) -> Verdict:
        """The text ended before the id: a candidate's beginning vanishes, other words stay readable."""
        beginning = raw[at + 1 :].lstrip().casefold()
        if not beginning or any(body.startswith(beginning) for body in self._bodies):
            return Verdict(len(raw) - at, fault=UNTERMINATED)
        return self._lone(raw, at, len(raw), UNTERMINATED)

    def _bracket(self, raw: str, at: int, final: bool) -> Verdict | None:
        for bracket in self._brackets:
            if raw.startswith(bracket, at):
                return Verdict(len(bracket), fault=MALFORMED)
        rest = raw[at : at + self._id_limit + 2]
        if at + len(rest) < len(raw) or not any(bracket.startswith(rest) for bracket in self._brackets):
            return Verdict(1, visible="[")
        if not final:
            return None
        return Verdict(len(rest), fault=UNTERMINATED) if len(rest) > 1 else Verdict(1, visible="[")


def _check(ad: Ad) -> None:
    if not ad.title or ad.title != ad.title.strip() or re.search(r"[@\[\]\n\r]", ad.title):
        raise InputError(f"title of ad {ad.id!r}", ad.title, "clean it with mechanism.sanitize.clean_title")
    if not ad.id or re.search(r"[@\[\]\s]", ad.id):
        raise InputError("ad id", ad.id, "use letters, digits, '.', '_', ':' and '-'")
