"""The record of each auction: candidates with their bids, the reason of every exclusion, shown ads, payments.

Kept in memory for the newest answers of this router. A record holds neither the question nor the profile, only whether
a profile was used. The lists of eligible and excluded creatives are computed when a record is read.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility import Evaluation, ReachedCaps, Reason
from serving.auction.eligibility.evaluation import CAMPAIGN_REASONS, ELIGIBLE, UNUSED, Codes
from serving.auction.eligibility.rules import adjusted_bid, creative_reason
from serving.auction.eligibility.slots import FrozenCampaigns
from serving.auction.separation import SeparationReason
from serving.campaigns.types import Campaign, Creative, Pricing, Priority


class AnswerOutcome(StrEnum):
    """How an answer ended, as records, metrics and events name it."""

    ANSWERED = "answered"
    CUT = "cut"
    """The deadline ended it; the text written before is the answer."""
    CANCELLED = "cancelled"
    """The client closed the connection."""
    FAILED = "failed"


class CandidateRecord(msgspec.Struct, frozen=True):
    """One ad in the prompt.

    `bid_micros` is its bid adjusted for this request, which a house ad does not pay, `shown_bid_micros` the bid that
    the policy saw under the ad load, `relevance` the score that brought it into the prompt.
    """

    ad_id: AdId
    campaign_id: str
    title: str
    advertiser: str
    category: str
    bid_micros: Micros
    shown_bid_micros: Micros
    pricing: Pricing
    priority: Priority
    relevance: float


class EligibleRecord(msgspec.Struct, frozen=True):
    """One eligible creative, in the prompt or not."""

    ad_id: AdId
    campaign_id: str
    bid_micros: Micros


class ExclusionRecord(msgspec.Struct, frozen=True):
    """One excluded creative and the reason; `ad_id` is empty for a campaign without creatives."""

    campaign_id: str
    ad_id: AdId
    reason: Reason


class ApartRecord(msgspec.Struct, frozen=True):
    """A creative that fitted the question but may not stand beside the better one `winner`, and the reason."""

    ad_id: AdId
    campaign_id: str
    reason: SeparationReason
    winner: AdId


class MarkerRecord(msgspec.Struct, frozen=True):
    """The policy's distribution over the candidates where it opened a marker (its propensities)."""

    chosen: AdId
    exact: bool
    probabilities: dict[AdId, float]


class ShownRecord(msgspec.Struct, frozen=True):
    """One ad that the reader saw; a click is charged once under `click_id`.

    `spans` are the places of its links in the text, as `SponsoredLink.span`.
    """

    ad_id: AdId
    campaign_id: str
    advertiser: str
    title: str
    label: str
    spans: list[tuple[int, int]]
    click_id: str
    bid_micros: Micros


class PaymentRecord(msgspec.Struct, frozen=True):
    """What an ad pays for this auction itself (an impression, participation); clicks are charged when they come."""

    ad_id: AdId
    campaign_id: str
    pricing: Pricing
    price_micros: Micros


class AuctionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One auction.

    `generations` is 2 where an answer without ads replaced a failed one. `withheld` is the reason code of a
    conversation that may have no ads, such as `sensitive:grief`. `floor_micros` is the lowest bid that took part, the
    placement's floor or the request's if that is higher, in `currency`. `left_out` are the ads that the policy wrote
    past the request's maximum, `faults` the kinds of broken markers that were removed.
    """

    auction_id: str
    created: int
    outcome: AnswerOutcome
    model: str
    model_digest: str
    seed: int
    currency: str
    placement: str
    floor_micros: Micros
    profile_used: bool
    generations: int
    withheld: str
    campaigns: int
    eligible: int
    excluded: dict[str, int]
    candidates: list[CandidateRecord]
    apart: list[ApartRecord]
    markers: list[MarkerRecord]
    shown: list[ShownRecord]
    payments: list[PaymentRecord]
    left_out: list[AdId]
    faults: list[str]
    ad_load: float
    logprob: float
    tokens: int
    overhead_ms: float
    seconds: float


class FullRecord(AuctionRecord, frozen=True, kw_only=True):
    """The record with every creative of every campaign: eligible with its bid, or excluded with its reason.

    Both lists are None where another router wrote the answer: it has them in its memory.
    """

    eligible_creatives: list[EligibleRecord] | None
    exclusions: list[ExclusionRecord] | None


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """What an eligibility evaluation cannot be computed from again: the codes by slot, as a difference to shared ones.

    The counts are those of `Evaluation`. Campaigns and frames are shared by the records of many auctions.
    """

    frame: Codes
    changed: NDArray[np.int32]
    codes: Codes
    campaigns: FrozenCampaigns
    capped: frozenset[AdId]
    segments: Mapping[str, tuple[str, ...]]
    counts: Mapping[Reason, int]
    campaign_count: int
    eligible_count: int

    @classmethod
    def of(cls, evaluation: Evaluation) -> EvaluationSummary:
        """Summarise an evaluation."""
        return cls(
            frame=evaluation.frame,
            changed=evaluation.changed,
            codes=evaluation.codes[evaluation.changed],
            campaigns=evaluation.campaigns,
            capped=evaluation.capped,
            segments=evaluation.segments,
            counts=evaluation.counts,
            campaign_count=evaluation.campaign_count,
            eligible_count=evaluation.eligible_count,
        )

    def eligible(self) -> list[EligibleRecord]:
        """Return the eligible creatives with their adjusted bids; iterates over all campaigns."""
        return [
            EligibleRecord(creative.id, campaign.id, adjusted_bid(campaign, self.segments))
            for campaign, creative, reason in self._judged()
            if reason is None
        ]

    def exclusions(self) -> list[ExclusionRecord]:
        """Return every other creative with its reason; iterates over all campaigns."""
        found = []
        codes = self._all_codes()
        for slot in np.flatnonzero((codes != UNUSED) & (codes != ELIGIBLE)).tolist():
            campaign, reason = self.campaigns[slot], CAMPAIGN_REASONS[codes[slot] - 1]
            if campaign is not None:
                ids = [creative.id for creative in campaign.creatives] or [""]
                found += [ExclusionRecord(campaign.id, ad_id, reason) for ad_id in ids]
        judged = self._judged()
        return found + [ExclusionRecord(c.id, one.id, reason) for c, one, reason in judged if reason is not None]

    def _all_codes(self) -> Codes:
        codes = self.frame.copy()
        codes[self.changed] = self.codes
        return codes

    def _judged(self) -> Iterator[tuple[Campaign, Creative, Reason | None]]:
        """Yield the creatives of the campaigns that passed all rules, with the reason of an excluded one."""
        caps = ReachedCaps(countable=True, creatives=self.capped)
        for slot in np.flatnonzero(self._all_codes() == ELIGIBLE).tolist():
            campaign = self.campaigns[slot]
            assert campaign is not None, "an eligible campaign has its slot"
            for creative in campaign.creatives:
                yield campaign, creative, creative_reason(creative, caps)


@dataclass(frozen=True, slots=True)
class OwnedRecord:
    """A record, its owner (the id of the API key, empty without one), and the evaluation it derives from.

    `elsewhere`: another router wrote the answer, and has the evaluation.
    """

    record: AuctionRecord
    owner: str
    evaluation: EvaluationSummary | None
    elsewhere: bool = False

    def full(self) -> FullRecord:
        """Return the record with every creative; slow with many campaigns."""
        if self.elsewhere:
            return FullRecord(**msgspec.structs.asdict(self.record), eligible_creatives=None, exclusions=None)
        return FullRecord(
            **msgspec.structs.asdict(self.record),
            eligible_creatives=self.evaluation.eligible() if self.evaluation else [],
            exclusions=self.evaluation.exclusions() if self.evaluation else [],
        )


class AuctionLog:
    """The newest `size` records by auction id. Used on the event loop only.

    Records are kept encoded: thousands of them as objects would lengthen every pause of the garbage collector. `share`
    gets each one, with its id and its owner.
    """

    def __init__(self, size: int, share: Callable[[str, str, bytes], None] | None = None) -> None:
        self._size = size
        self._share = share
        self._entries: OrderedDict[str, _Encoded] = OrderedDict()

    def add(self, owned: OwnedRecord) -> None:
        """Add a record and drop the oldest past the size."""
        auction_id, body = owned.record.auction_id, _encode(owned.record)
        self._entries[auction_id] = _Encoded(body, owned.owner, owned.evaluation)
        if self._share is not None:
            self._share(auction_id, owned.owner, body)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def get(self, auction_id: str) -> OwnedRecord | None:
        """Return the record of an auction, None where it is unknown or dropped."""
        entry = self._entries.get(auction_id)
        return None if entry is None else entry.decoded()

    def newest(self, owner: str | None, before: str, count: int) -> list[OwnedRecord]:
        """Return records, newest first, that are older than the auction `before` ("" for the newest).

        `owner` None returns every owner's. Auction ids sort by time.
        """
        chosen = (
            entry
            for auction_id, entry in reversed(self._entries.items())
            if (owner is None or entry.owner == owner) and (not before or auction_id < before)
        )
        return [entry.decoded() for entry in islice(chosen, count)]


@dataclass(frozen=True, slots=True)
class _Encoded:
    record: bytes
    owner: str
    evaluation: EvaluationSummary | None

    def decoded(self) -> OwnedRecord:
        return OwnedRecord(decode_record(self.record), self.owner, self.evaluation)


_encode = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(AuctionRecord).decode


def new_auction_id() -> str:
    """Create a UUIDv7 (RFC 9562); ids sort by their time of creation, to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | secrets.randbits(62)))


def created_ms(auction_id: str) -> int | None:
    """Return when an auction id was created, in Unix milliseconds; None if it is no UUIDv7."""
    try:
        value = uuid.UUID(auction_id)
    except ValueError:
        return None
    return value.int >> 80 if value.version == 7 else None
