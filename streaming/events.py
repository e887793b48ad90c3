"""The events: what happened in auctions, as versioned records. One place for their fields; the wire is `codec`'s.

Times are UTC, money is an integer number of micros of the event's currency, identities are pseudonyms. What a reader
said, what is known of them and what they were answered stands in one optional part, `Interaction.reader`, which is
there with consent only and can be taken out whole.

A field may be added if it has a default; old events then read as that default, and older readers ignore it. Anything
else is a new version: the old struct stays, under its version, and `codec` turns it into the new one.
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
Pseudonym = Annotated[str, Meta(pattern="^([0-9a-f]{32})?$", description="streaming.pseudonyms; empty: nobody's")]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all events have. `occurred_at` is the event's time, by which it is joined and ordered."""

    occurred_at: Moment

    def __post_init__(self) -> None:
        _utc("occurred_at", self.occurred_at)
        self._check()

    def _check(self) -> None:
        """Raises ValueError where fields contradict each other."""

    @property
    def key(self) -> str:
        """What decides the event's partition."""
        raise NotImplementedError

    @property
    def event_id(self) -> str:
        """The same for every copy of an event: consumers tell a repetition by it."""
        raise NotImplementedError


class CandidateAd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An ad in the prompt. `shown_bid_micros` is what the policy saw of `bid_micros` under the ad load."""

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
    """Where the policy opened a marker: what it chose, and its distribution over the candidates (propensities).
    `exact` as in `mechanism.types.MarkerChoice`."""

    chosen: Name
    probabilities: dict[AdId, Share]
    exact: bool = True


class ShownAd(Struct, frozen=True, kw_only=True):
    """An ad that the reader saw, once however often it is linked. `price_micros` is what a click costs under `click`,
    what this showing cost under `impression`, and 0 under `participation`."""

    ad_id: Name
    pricing: Pricing
    price_micros: Price


class Participation(Struct, frozen=True, kw_only=True):
    """What a candidate paid for taking part, shown or not."""

    ad_id: Name
    price_micros: Price


class Sampling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the answer was drawn; None where the policy's server decides and does not say. `max_ads` is the most ads of
    this answer."""

    seed: int
    max_ads: Count
    temperature: Seconds | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    max_new_tokens: Count | None = None


class ReaderProfile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As `mechanism.types.Profile`, whose id is the pseudonym."""

    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


class Span(Struct, frozen=True, array_like=True):
    """The title of `ad_id` is `text[start:end]` (characters) of the visible text."""

    ad_id: Name
    start: Count
    end: Count


class Reader(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The personal part. `query` is the last message, `turns` those before it as (role, text). `raw` is the policy's
    text with its markers, `text` what was read, each sponsored link standing as its bare title (no address of a link
    is ever written down)."""

    user_id: Pseudonym = ""
    query: str
    turns: tuple[tuple[str, str], ...] = ()
    profile: ReaderProfile | None = None
    raw: str
    text: str
    spans: tuple[Span, ...] = ()


class Interaction(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """One answer. `outcome` is "answered", "cut" (by the deadline), "cancelled" (the client left) or "failed".

    `candidates` stand in the order of the prompt, `shown` in that of the text. `logprob` (nats) and `markers` are the
    policy's as it was sampled, None and empty where it did not finish. `left_out` were written past `max_ads` and not
    shown; `faults` are kinds of broken markers. `experiment` and `arm` name a test that the auction was part of,
    `explored` says that the policy was made to deviate (its propensities still hold). Latencies count from the request.
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
            raise ValueError("reader is told without consent: leave it out")
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
        """Return what a judge is given of this interaction; without the reader's part there is nothing to grade."""
        answer = None
        if (reader := self.reader) is not None:
            answer = Answer(reader.raw, reader.text, tuple(Insertion(s.ad_id, s.start, s.end) for s in reader.spans))
        return AnswerToGrade(self.auction_id, self.context(), answer, self.finished)

    def context(self) -> Context | None:
        """The auction's input with the bids as the policy saw them; None where the reader's part is not there."""
        if (reader := self.reader) is None:
            return None
        told = reader.profile
        profile = Profile(reader.user_id, **msgspec.structs.asdict(told)) if told is not None else None
        if profile is None and reader.user_id:
            profile = Profile(reader.user_id)
        candidates = tuple(
            Candidate(Ad(c.ad_id, c.title, c.text, c.advertiser, c.category), c.shown_bid_micros)
            for c in self.candidates
        )
        return Context(self.auction_id, reader.query, candidates, profile, reader.turns)

    def bids(self) -> dict[AdId, Micros]:
        """What was bid, before the ad load."""
        return {c.ad_id: c.bid_micros for c in self.candidates}

    def generation(self) -> Generation | None:
        """The answer as a trainer's sample, without token ids and offsets of faults, which no event holds; None where
        the policy did not finish or the reader's part is not there."""
        if self.reader is None or self.logprob is None:
            return None
        spans = tuple(Insertion(s.ad_id, s.start, s.end) for s in self.reader.spans)
        answer = Answer(self.reader.raw, self.reader.text, spans)
        choices = tuple(MarkerChoice(m.chosen, m.probabilities, m.exact) for m in self.markers)
        return Generation(answer, (), self.logprob, choices, self.finished)


class Click(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """A followed link. It is charged once per `click_id`, which is the ad in the answer (`click_id_of`), at
    `price_micros`, what the auction decided (0 unless the pricing is per click); an invalid one, whose `reason` says
    why, costs nothing and does not stand in the way of a valid one. `model_version` is that of the answer, empty
    where the link did not say."""

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

    @property
    def key(self) -> str:
        return self.auction_id

    @property
    def event_id(self) -> str:
        """A link followed again is the same event, unless the verdict is another."""
        return f"{self.click_id}:{self.reason}" if self.reason else self.click_id

    def _check(self) -> None:
        if (self.verdict == "invalid") != bool(self.reason):
            raise ValueError("an invalid click has a reason, a valid one has none")
        if self.click_id != click_id_of(self.auction_id, self.ad_id):
            raise ValueError(f"click_id is not {click_id_of(self.auction_id, self.ad_id)!r}")


class GradedAd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The grades of one shown ad, within 0..1; None where the judge gave none."""

    ad_id: Name
    relevance: Share | None = None
    nativeness: Share | None = None


class Judgement(Event, frozen=True, kw_only=True, omit_defaults=True, tag=2, tag_field="version"):
    """The grades of one answer. `occurred_at` is when it was graded, `answered_at` the auction's time.

    Clicks are events of their own; `streaming/lake/training_set.sql` joins them. Of several judgements of an auction
    the latest counts.
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
        _utc("answered_at", self.answered_at)


class ClickedAdV1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One shown ad of a judgement at version 1, with the clicks that its judge had joined."""

    ad_id: Name
    clicked: bool
    clicked_after_s: Seconds | None = None
    relevance: Share | None = None
    nativeness: Share | None = None

    def __post_init__(self) -> None:
        if self.clicked != (self.clicked_after_s is not None):
            raise ValueError(f"ad {self.ad_id}: clicked_after_s is there if and only if it was clicked")


class JudgementV1(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """A judgement at version 1: grades and the clicks within `window_s` seconds; `revision` counts those clicks."""

    auction_id: AuctionId
    answered_at: Moment
    window_s: Seconds
    judge: Name
    judge_version: str
    revision: Count = 0
    ads: tuple[ClickedAdV1, ...] = ()
    answer_quality: Share | None = None

    def _check(self) -> None:
        _utc("answered_at", self.answered_at)

    def upgraded(self) -> Judgement:
        """Return its grades as the newest version; its clicks are in the topic `clicks`."""
        return Judgement(
            occurred_at=self.occurred_at,
            auction_id=self.auction_id,
            answered_at=self.answered_at,
            judge=self.judge,
            judge_version=self.judge_version,
            ads=tuple(GradedAd(ad_id=ad.ad_id, relevance=ad.relevance, nativeness=ad.nativeness) for ad in self.ads),
            answer_quality=self.answer_quality,
        )


class CampaignState(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """What a campaign is and has spent at `occurred_at`; the newest stands for all before it (compacted topic, and a
    record without value says that the campaign is gone). `spent_micros` is its total by the ledger, `day_micros` that
    of `day` (ISO date in the campaign's time zone). A budget of None is unlimited. `revision` is the campaign's own
    version, which grows with every change by its advertiser."""

    campaign_id: Name
    advertiser_id: Name
    state: Literal["active", "paused", "ended"]
    revision: Count
    currency: Currency
    pricing: Pricing
    bid_micros: Price
    daily_budget_micros: Count | None = None
    total_budget_micros: Count | None = None
    spent_micros: Count = 0
    day: str = ""
    day_micros: Count = 0

    @property
    def key(self) -> str:
        return self.campaign_id

    @property
    def event_id(self) -> str:
        return f"{self.campaign_id}:{self.revision}:{self.occurred_at.isoformat()}"


AnyEvent = Interaction | Click | Judgement | CampaignState


def click_id_of(auction_id: str, ad_id: AdId) -> str:
    """What is charged at most once: an ad in an answer."""
    return f"{auction_id}:{ad_id}"


def _utc(place: str, moment: datetime) -> None:
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"{place}: {moment.isoformat()} is not UTC")


def _known(place: str, ads: Iterable[AdId], known: set[AdId]) -> None:
    if foreign := sorted(set(ads) - known):
        raise ValueError(f"{place}: ad {foreign[0]!r} is not among the candidates")
