"""Reading a chat completion: what its reader sees, and how long reading takes. Pure functions.

The content is Markdown with labelled links; `ads` has their positions. Whether a link is followed is left to the click
model (`simulator.clicks`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechanism.errors import InputError
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Insertion
from simulator.world import Query

_WORD = re.compile(r"\S+")
_ESCAPED = re.compile(r"\\([\\\[\]*_`<>])")


@dataclass(frozen=True, slots=True)
class Read:
    """A read answer.

    `answer` has the text with plain titles, `ads` the ads of its sponsored links in order, `links` their addresses.
    """

    answer: Answer
    ads: tuple[Ad, ...]
    links: dict[AdId, str]

    def context(self, auction_id: str, query: Query) -> Context:
        """Return the auction as its reader sees it: without bids, and with the shown candidates only."""
        shown = tuple(Candidate(ad, 0) for ad in self.ads)
        return Context(auction_id, query.text, shown, query.profile, query.turns, query.category)

    def words_before(self, ad_id: AdId) -> int:
        """Return the number of words up to the link, its sentence included."""
        first = next(i for i in self.answer.insertions if i.ad_id == ad_id)
        end = self.answer.text.find(".", first.end)
        return len(_WORD.findall(self.answer.text[: end if end >= 0 else None]))


@dataclass(frozen=True, slots=True)
class Pace:
    """Reading speed, and the time to decide on a click.

    `thought_s` is the median time in seconds from reading a link to clicking it; no click comes within `quickest_s` of
    the answer.
    """

    words_a_minute: float = 240.0
    thought_s: float = 2.0
    quickest_s: float = 2.0

    def until_click(self, words: int, rng: np.random.Generator) -> float:
        """Draw the seconds from the answer to a click on a link after `words` words."""
        reading = words / self.words_a_minute * 60.0 * float(rng.lognormal(0.0, 0.2))
        return max(self.quickest_s, reading + self.thought_s * float(rng.lognormal(0.0, 0.5)))


def read(completion: dict[str, Any]) -> Read:
    """Return what a chat completion shows.

    Raises:
        InputError: if content and `ads` do not fit together.
    """
    try:
        content = completion["choices"][0]["message"]["content"]
        links = sorted(completion.get("ads", ()), key=lambda ad: ad["span"][0])
        text, at, insertions = "", 0, []
        ads: dict[AdId, Ad] = {}
        urls: dict[AdId, str] = {}
        for link in links:
            begin, end = link["span"]
            title = link["title"]
            if at > begin or title not in _ESCAPED.sub(r"\1", content[begin:end]):
                remedy = "each span must cover the link to its ad, and no two may overlap"
                raise InputError("ads.span", [begin, end], remedy)
            text += content[at:begin]
            insertions.append(Insertion(link["ad_id"], len(text), len(text) + len(title)))
            text, at = text + title, end
            description = link.get("creative", {}).get("text", "")
            ads.setdefault(link["ad_id"], Ad(link["ad_id"], title, description, link["advertiser"]))
            urls.setdefault(link["ad_id"], link["click_url"])
        text += content[at:]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError("completion", type(error).__name__, f"it lacks or misplaces {error}") from error
    return Read(Answer(content, text, tuple(insertions)), tuple(ads.values()), urls)
