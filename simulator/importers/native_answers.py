"""Answers that data sets hold, with the ad's name turned into its marker: examples for the supervised warm start."""

from __future__ import annotations

import re

from mechanism.markers import render_marker
from mechanism.types import Ad
from simulator.importers.dataset import ImportedAnswer

UNNAMED = "the answer does not name this ad and is no example; query and ad are kept"


def native_answer(text: str, name: str, ad: Ad, passage: str = "", score: float = 0.0) -> ImportedAnswer | None:
    """Return a clean answer with the marker of `ad` in place of its name; None if `text` does not name it.

    The first occurrence after the start of `passage` counts, the span that a data set marks as the ad, else the first
    one. Case and line breaks inside the name are ignored.
    """
    pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, name.split())) + r"(?!\w)", re.IGNORECASE)
    found = pattern.search(text, max(0, text.find(passage))) or pattern.search(text)
    if found is None or not name.strip():
        return None
    return ImportedAnswer(text[: found.start()] + render_marker(ad) + text[found.end() :], ad.id, score)
