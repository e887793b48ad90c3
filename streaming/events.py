"""The events of auctions, as versioned records. This module defines their fields; `streaming.codec` encodes them.

Times are UTC, money is an integer number of micros of the event's currency, users are pseudonyms. All personal data
(what the reader wrote, their profile, and the answer) are in one optional part, `Interaction.reader`. It exists only
with the reader's consent and can be removed as a whole.

A field may be added if it has a default: older events then decode to that default, and older consumers ignore the
field. Any other change needs a new version: the old struct moves to `streaming.former_events`, and `codec` converts it
to the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from judge.grades import AnswerToGrade
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Generation, Insertion, MarkerChoice, Micros, Profile

Pricing = Literal["click", "impression", "participation"]
AuctionId = Annotated[
    str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", description="UUIDv7")
]
Currency = Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217")]
Price = Annotated[Micros, Meta(ge=0, le=10**13, description="micros of the event's currency")]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Moment = Annotated[datetime, Meta(tz=True, description="UTC")]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Pseudonym = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$", description="streaming.pseudonyms; empty: no user id")]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of all events. `occurred_at` is the event's time, by which it is joined and ordered."""

    occurred_at: Moment

    def __post_init__(self) -> None:
        require_utc("occurred_at", self.occurred_at)
        self._check()

    def _check(self) -> None:
        """Check that the fields agree with each other; raise ValueError if they do not."""

    @property
    def key(self) -> str:
        """The key of the event's record, which decides its partition."""
        raise NotImplementedError

    @property
    def event_id(self) -> str:
        """The same for every copy of an event, so that consumers recognise repetitions."""
        raise NotImplementedError


class CandidateAd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An ad in the prompt.

    `shown_bid_micros` is the bid that the policy saw: `bid_micros` on the scale of prompts (10,000 a point), under the
    ad load.
    """

    ad_id: Name
    campaign_id: Name
    title: str
    text: str = ""
    advertiser: str = ""
    category: str = ""
    bid_micros: Price
    shown_bid_micros: Price
    pricing: Pricing


class MarkerDraw(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A marker that the policy opened: the ad that it chose, and its probabilities of all candidates (propensities).

    `exact` has the meaning of `mechanism.types.MarkerChoice.exact`.
    """

    chosen: Name
    probabilities: dict[AdId, Share]
    exact: bool = True


class ShownAd(Struct, frozen=True, kw_only=True):
    """An ad that the reader saw, listed once even if it is linked several times.

    `price_micros` is the price of a click under the pricing `click`, the price of this impression under `impression`,
    and 0 under `participation`.
    """

    ad_id: Name
    pricing: Pricing
    price_micros: Price


class Participation(Struct, frozen=True, kw_only=True):
    """The price that a candidate paid for taking part in the auction, shown or not."""

    ad_id: Name
    price_micros: Price


class Sampling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the answer was sampled. `max_ads` is the largest number of ads that the answer may show.

    A parameter is None if the policy's server chose it and did not report it.
    """

    seed: int
    max_ads: Count
    temperature: Seconds | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    max_new_tokens: Count | None = None


class ReaderProfile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reader's profile: the fields of `mechanism.types.Profile` without its id, which is `Reader.user_id`."""

    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


class Span(Struct, frozen=True, array_like=True):
    """The place of an ad's title in the visible text: characters `text[start:end]`."""

    ad_id: Name
    start: Count
    end: Count


class Reader(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The personal part of an interaction.

    `query` is the last message, `turns` are the messages before it as (role, text). `raw` is the policy's text with its
    markers. `text` is the text that the reader saw, with the bare title in place of each sponsored link: addresses of
    links are never stored.
    """

    user_id: Pseudonym = ""
    query: str
    turns: tuple[tuple[str, str], ...] = ()
    profile: ReaderProfile | None = None
    raw: str
    text: str
    spans: tuple[Span, ...] = ()


class Interaction(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """One answer. `outcome` is "answered", "cut" (by the deadline), "cancelled" (the client left) or "failed".

    `candidates` are in the order of the prompt, `shown` in the order of the text. `logprob` (nats) and `markers` are
    those of the policy as it was sampled; they are None and empty if it did not finish. `left_out` are the ads that the
    policy wrote beyond `max_ads`, which were not shown. `faults` are the kinds of broken markers. `experiment` and
    `arm` name the test that the auction was part of, `publisher_id` the owner of the placement. `explored` is true
    if the policy was made to deviate; its propensities are valid all the same. Latencies are measured from the
    request.
    """

    auction_id: AuctionId
    outcome: Literal["answered", "cut", "cancelled", "failed"]
    placement: str = ""
    currency: Currency
    model: Name
    model_version: str
    model_digest: str
    sampling: Sampling
    candidates: tuple[CandidateAd, ...] = ()
    markers: tuple[MarkerDraw, ...] = ()
    shown: tuple[ShownAd, ...] = ()
    participations: tuple[Participation, ...] = ()
    left_out: tuple[Name, ...] = ()
    faults: tuple[str, ...] = ()
    logprob: float | None = None
    tokens: Count = 0
    prompt_tokens: Count = 0
    finished: bool = False
    ad_load: Seconds = 1.0
    experiment: str = ""
    arm: str = ""
    publisher_id: str = ""
    explored: bool = False
    overhead_s: Seconds = 0.0
    first_token_s: Seconds | None = None
    answer_s: Seconds = 0.0
    consent: bool = False
    reader: Reader | None = None

    @property
    def key(self) -> str:
        return self.auction_id

    @property
    def event_id(self) -> str:
        return self.auction_id

    def _check(self) -> None:
        if self.reader is not None and not self.consent:
            raise ValueError("reader is given without consent: leave it out")
        if self.logprob is not None and not math.isfinite(self.logprob):
            raise ValueError(f"logprob {self.logprob} is no number")
        known = {c.ad_id for c in self.candidates}
        if len(known) != len(self.candidates):
            raise ValueError("a candidate stands twice")
        if len({s.ad_id for s in self.shown}) != len(self.shown):
            raise ValueError("an ad is shown twice: list it once")
        _known("shown", (s.ad_id for s in self.shown), known)
        _known("participations", (p.ad_id for p in self.participations), known)
        _known("markers", (a for m in self.markers for a in (m.chosen, *m.probabilities)), known)
        if self.reader is not None:
            shown, length = {s.ad_id for s in self.shown}, len(self.reader.text)
            if not {s.ad_id for s in self.reader.spans} <= shown:
                raise ValueError("reader.spans: an ad is not among the shown ones")
            if any(not s.start < s.end <= length for s in self.reader.spans):
                raise ValueError("a span of reader.spans does not lie within the text")

    def to_grade(self) -> AnswerToGrade:
        """Return the judge's input; its context and answer are None if the reader's part is missing."""
        answer = None
        if (reader := self.reader) is not None:
            answer = Answer(reader.raw, reader.text, tuple(Insertion(s.ad_id, s.start, s.end) for s in reader.spans))
        return AnswerToGrade(self.auction_id, self.context(), answer, self.finished)

    def context(self) -> Context | None:
        """Return the auction's input with the bids that the policy saw; None if the reader's part is missing."""
        if (reader := self.reader) is None:
            return None
        profile = None
        if reader.profile is not None:
            profile = Profile(reader.user_id, **msgspec.structs.asdict(reader.profile))
        elif reader.user_id:
            profile = Profile(reader.user_id)
        candidates = tuple(
            Candidate(Ad(c.ad_id, c.title, c.text, c.advertiser, c.category), c.shown_bid_micros)
            for c in self.candidates
        )
        return Context(self.auction_id, reader.query, candidates, profile, reader.turns)

    def bids(self) -> dict[AdId, Micros]:
        """Return the bids on the scale of prompts before the ad load, by ad."""
        if not self.ad_load:
            return {c.ad_id: c.bid_micros for c in self.candidates}
        return {c.ad_id: round(c.shown_bid_micros / self.ad_load) for c in self.candidates}

    def generation(self) -> Generation | None:
        """Return the answer as a trainer's sample; None if the policy did not finish or the reader's part is missing.

        The sample has no token ids and no offsets of faults, which events do not hold.
        """
        if self.reader is None or self.logprob is None:
            return None
        spans = tuple(Insertion(s.ad_id, s.start, s.end) for s in self.reader.spans)
        answer = Answer(self.reader.raw, self.reader.text, spans)
        choices = tuple(MarkerChoice(m.chosen, m.probabilities, m.exact) for m in self.markers)
        return Generation(answer, (), self.logprob, choices, self.finished)


class Click(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """A followed link.

    A valid click is charged once per `click_id`, which names the ad in the answer (`click_id_of`). The charge is
    `price_micros`, the price that the auction set (0 unless the pricing is per click). An invalid click has a
    `reason`, is not charged, and does not keep a later valid click from being charged. `model_version` is that of
    the answer, empty if the link did not hold it. `source` is a keyed hash of the address that the click came from.
    `publisher_id` is the owner of the placement, empty if it is not registered.
    """

    click_id: Name
    auction_id: AuctionId
    ad_id: Name
    campaign_id: Name
    placement: str = ""
    verdict: Literal["valid", "invalid"]
    reason: str = ""
    price_micros: Price
    currency: Currency
    model_version: str = ""
    source: Pseudonym = ""
    publisher_id: str = ""

    @property
    def key(self) -> str:
        return self.auction_id

    @property
    def event_id(self) -> str:
        """The same if a link is followed again, unless the verdict or its reason differs."""
        return f"{self.click_id}:{self.reason}" if self.reason else self.click_id

    def _check(self) -> None:
        if (self.verdict == "invalid") != bool(self.reason):
            raise ValueError("an invalid click has a reason, a valid one has none")
        if self.click_id != click_id_of(self.auction_id, self.ad_id):
            raise ValueError(f"click_id is not {click_id_of(self.auction_id, self.ad_id)!r}")


class Conversion(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """What a reader did on an advertiser's page after a valid click, as the advertiser reported it.

    `conversion_id` is a hash of the advertiser's own id and `type`, by which a conversion counts once. `clicked_at` is
    the time of the click. `value_micros` is what it was worth to the advertiser, 0 if that was not reported.
    """

    conversion_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    click_id: Name
    auction_id: AuctionId
    ad_id: Name
    campaign_id: Name
    type: Name
    placement: str = ""
    model_version: str = ""
    clicked_at: Moment
    value_micros: Price = 0
    currency: Currency

    @property
    def key(self) -> str:
        return self.auction_id

    @property
    def event_id(self) -> str:
        return self.conversion_id

    def _check(self) -> None:
        require_utc("clicked_at", self.clicked_at)


class GradedAd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The grades of one shown ad, from 0 to 1; None if the judge gave none."""

    ad_id: Name
    relevance: Share | None = None
    nativeness: Share | None = None


class Judgement(Event, frozen=True, kw_only=True, omit_defaults=True, tag=2, tag_field="version"):
    """The grades of one answer. `occurred_at` is when it was graded, `answered_at` the time of the auction.

    Clicks are separate events, which `streaming/lake/training_set.sql` joins. Of several judgements of an auction the
    latest counts.
    """

    auction_id: AuctionId
    answered_at: Moment
    judge: Name
    judge_version: str
    ads: tuple[GradedAd, ...] = ()
    answer_quality: Share | None = None

    @property
    def key(self) -> str:
        return self.auction_id

    @property
    def event_id(self) -> str:
        return f"{self.auction_id}:{self.judge}:{self.judge_version}"

    def _check(self) -> None:
        require_utc("answered_at", self.answered_at)


AnyEvent = Interaction | Click | Conversion | Judgement


def click_id_of(auction_id: str, ad_id: AdId) -> str:
    """Return the id under which clicks on an ad in an answer are charged at most once."""
    return f"{auction_id}:{ad_id}"


def require_utc(place: str, moment: datetime) -> None:
    """Check that a moment is in UTC.

    Raises:
        ValueError: It is not; the message names the place and the moment.
    """
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"{place}: {moment.isoformat()} is not UTC")


def _known(place: str, ads: Iterable[AdId], known: set[AdId]) -> None:
    if foreign := sorted(set(ads) - known):
        raise ValueError(f"{place}: ad {foreign[0]!r} is not among the candidates")
