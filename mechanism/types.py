"""The nouns of the auction: ads, candidates, profiles, contexts, insertions, answers.

Everything here is frozen and free of I/O. Money is an integer number of micros (millionths of the currency's unit) for
one click; no float touches a payment. Symbols are those of arXiv 2512.10551, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

AdId = str
Micros = int

MICROS_PER_UNIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Ad:
    """A creative a_i. `title` is written verbatim into answers; `text` describes what is advertised."""

    id: AdId
    title: str
    text: str
    advertiser: str
    category: str = ""
    landing_url: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ad that takes part in one auction, with its bid b_i >= 0 for one click, in micros."""

    ad: Ad
    bid: Micros

    def __post_init__(self) -> None:
        if isinstance(self.bid, bool) or not isinstance(self.bid, int) or self.bid < 0:
            raise ValueError(f"bid of ad {self.ad.id!r} is {self.bid!r}: give a whole number of micros >= 0")


@dataclass(frozen=True, slots=True)
class Profile:
    """What the platform knows of a user (h). It is used with consent only, and never logged."""

    id: str
    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """The input (x, h, a, b) of one auction.

    `query` (x) is the last user message and `turns` the messages before it, as (role, text) pairs; where the last
    message is not the user's, it is a turn and `query` is empty. `profile` (h) is None without consent. `candidates`
    are the ads with their bids (a, b), in the order of the prompt.
    """

    id: str
    query: str
    candidates: tuple[Candidate, ...]
    profile: Profile | None = None
    turns: tuple[tuple[str, str], ...] = ()
    category: str = ""

    def bids(self) -> dict[AdId, Micros]:
        """Return the bid of every candidate, in micros."""
        return {c.ad.id: c.bid for c in self.candidates}

    def with_bids(self, bids: Mapping[AdId, Micros]) -> Context:
        """Return the same context under other bids; candidates missing from `bids` keep theirs."""
        changed = tuple(replace(c, bid=bids.get(c.ad.id, c.bid)) for c in self.candidates)
        return replace(self, candidates=changed)


@dataclass(frozen=True, slots=True)
class Insertion:
    """An ad shown in an answer: its title occupies `text[start:end]` of the visible text."""

    ad_id: AdId
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Marker syntax that was removed from an answer: one of `markers.FAULT_KINDS`, at raw offset `at`."""

    kind: str
    at: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer y: the raw text, the text that a reader sees, the insertions in it, and the faults removed."""

    raw: str
    text: str
    insertions: tuple[Insertion, ...] = ()
    faults: tuple[Fault, ...] = ()

    def shown(self) -> tuple[AdId, ...]:
        """Return the distinct ads in order of appearance: the set {i : a_i in y}."""
        return tuple(dict.fromkeys(i.ad_id for i in self.insertions))

    def struck(self, start: int, end: int) -> str:
        """Return `text[start:end]` with the title of every ad replaced by "it"."""
        text = self.text[start:end]
        for insertion in sorted(self.insertions, key=lambda i: -i.start):
            if start <= insertion.start and insertion.end <= end:
                text = text[: insertion.start - start] + "it" + text[insertion.end - start :]
        return text


@dataclass(frozen=True, slots=True)
class MarkerChoice:
    """The policy's distribution over the candidates at one opened marker: the propensities of off-policy evaluation.

    `probabilities` sums to 1. `exact` is False where candidates share the first tokens of their titles and the sampled
    tokens did not separate them: such a group shares its probability evenly.
    """

    chosen: AdId
    probabilities: Mapping[AdId, float]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled answer with what off-policy evaluation needs.

    `logprob` (nats) and `choices` are those of the policy as it was sampled: constraint, temperature and truncation
    included. `finished` is False where the answer was cut off by its token limit.
    """

    answer: Answer
    token_ids: tuple[int, ...]
    logprob: float
    choices: tuple[MarkerChoice, ...] = ()
    finished: bool = True
