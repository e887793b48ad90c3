"""The nouns of the auction: ads, candidates, profiles, contexts, insertions, answers.

Everything here is frozen and free of I/O. Money is an integer number of micros (a millionth of the currency's
unit) for one click; no float touches a payment. Notation follows arXiv 2512.10551, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    """What the platform knows of a user (h): given only with consent, and never logged."""

    id: str
    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """One auction's input (x, h, a, b). `query` is the last user message; `turns` the messages before it as
    (role, text) pairs. `profile` is None without consent."""

    id: str
    query: str
    candidates: tuple[Candidate, ...]
    profile: Profile | None = None
    turns: tuple[tuple[str, str], ...] = ()
    category: str = ""

    def bids(self) -> dict[AdId, Micros]:
        """Bid by ad id, in micros."""
        return {c.ad.id: c.bid for c in self.candidates}

    def with_bids(self, bids: Mapping[AdId, Micros]) -> Context:
        """The same context under other bids; ads that `bids` does not name keep theirs."""
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
    """Something that is not a valid insertion: `kind` is one of the parser's fault kinds, at raw offset `at`."""

    kind: str
    at: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer y: the text that a reader sees, the insertions in it, and the faults found in the raw text."""

    raw: str
    text: str
    insertions: tuple[Insertion, ...] = ()
    faults: tuple[Fault, ...] = ()

    def shown(self) -> tuple[AdId, ...]:
        """Distinct ads in order of appearance: the set {i : a_i in y}."""
        return tuple(dict.fromkeys(i.ad_id for i in self.insertions))

    def struck(self, start: int, end: int) -> str:
        """The text from `start` to `end` (characters) in which the title of every ad is replaced by "it"."""
        text = self.text[start:end]
        for insertion in sorted(self.insertions, key=lambda i: -i.start):
            if start <= insertion.start and insertion.end <= end:
                text = text[: insertion.start - start] + "it" + text[insertion.end - start :]
        return text


@dataclass(frozen=True, slots=True)
class MarkerChoice:
    """The policy's distribution at one opened marker. `probabilities` sums to 1 over the candidates; `exact` is False
    where ads that share the first tokens of their titles were not told apart and share their group's mass evenly."""

    chosen: AdId
    probabilities: Mapping[AdId, float]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled answer with what off-policy evaluation needs: its log-probability (nats) and the distribution
    at every marker, both under the policy as it was sampled: constraint, temperature and truncation included."""

    answer: Answer
    token_ids: tuple[int, ...]
    logprob: float
    choices: tuple[MarkerChoice, ...] = ()
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one answer: clicks by shown ad (c), and the payments they caused, in micros."""

    clicks: Mapping[AdId, bool] = field(default_factory=dict)
    payments: Mapping[AdId, Micros] = field(default_factory=dict)


def model_version(digest: str) -> str:
    """The model version that reports and metrics are grouped by: the beginning of the weights' digest, or a server's
    model name."""
    return digest[:200] if ":" in digest else digest[:16]
