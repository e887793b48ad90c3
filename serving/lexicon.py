"""Phrases by label, found in a text in one pass: what the gate of sensitive topics and the checks of creatives read.

A phrase is written as people write it. `*` is the rest of a word, `~` up to three words, `#` the end of the text;
`(a|b)`, `(a )?` and `[0-9]` are those of regular expressions. Case, accents and punctuation do not count. Phrases in
Chinese characters match anywhere, and `~` is up to six characters there. RE2 reads all of them at once, in time linear
in the text, so that no message can make the router slow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

import re2

MEMORY = 1 << 28
"""Bytes that RE2 may use for the automaton of one lexicon; beyond it a search would fail."""
HAN = re.compile("[\u3400-\u9fff]")
_SPLIT = re.compile(r"[^\w]+|_+")
_WORD_REST, _GAP, _HAN_GAP, _END = "[^ ]*", "(?:[^ ]+ ){0,3}", ".{0,6}", " ?$"


def plain(text: str) -> str:
    """Return a text as phrases are compared: case folded, without accents and invisible characters, between blanks."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    return f" {_SPLIT.sub(' ', kept).strip()} "


class Lexicon:
    """Phrases with their labels; immutable, usable from any thread."""

    def __init__(self, phrases: Mapping[str, Iterable[str]]) -> None:
        options = re2.Options()
        options.max_mem, options.log_errors = MEMORY, False
        self._set = re2.Set.SearchSet(options)
        self._labels: list[str] = []
        for label, written in phrases.items():
            for phrase in written:
                self._set.Add(expression(phrase))
                self._labels.append(label)
        if self._labels:
            self._set.Compile()

    def labels(self, text: str) -> frozenset[str]:
        """Return the labels of all phrases in a text that `plain` returned."""
        found = self._set.Match(text) if self._labels else None  # RE2 returns None where nothing matches
        return frozenset(self._labels[number] for number in found or ())


def expression(phrase: str) -> str:
    """Return the regular expression of a phrase, for texts that `plain` returns."""
    folded = unicodedata.normalize("NFKD", phrase.strip().casefold())
    folded = "".join(c for c in folded if unicodedata.category(c) != "Mn").replace("'", " ")
    if HAN.search(folded):
        return folded.replace("*", "").replace("~", _HAN_GAP)
    folded = folded.replace("~ ", _GAP).replace("*", _WORD_REST).replace("#", _END)
    return f" (?:{folded})(?: |$)"


def lines(text: str) -> tuple[str, ...]:
    """Return the phrases of a block in a data file: one a line, blank lines left out."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
