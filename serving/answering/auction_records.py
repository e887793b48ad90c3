"""The record of each auction: candidates with their bids, the reason of every exclusion, shown ads, payments.

Kept in memory for the newest answers of this router. A record holds neither the question nor the profile, only whether
a profile was used. The lists of eligible and excluded creatives are computed when a record is read.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility import CREATIVE_REASONS, CreativeState, Evaluation, Reason
from serving.auction.separation import SeparationReason
from serving.campaigns.types import Campaign, Pricing, Priority


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
    """The record with every creative of every campaign: eligible with its bid, or excluded with its reason."""

    eligible_creatives: list[EligibleRecord]
    exclusions: list[ExclusionRecord]


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """An eligibility evaluation in little memory: per slot the number of rules passed, per creative its state."""

    reasons: tuple[Reason, ...]
    passed: NDArray[np.uint8]
    used: NDArray[np.bool_]
    campaigns: tuple[Campaign | None, ...]
    slots: NDArray[np.int64]
    states_M: NDArray[np.uint8]
    eligible_count: int
    bids: NDArray[np.int64]

    @classmethod
    def of(cls, evaluation: Evaluation) -> EvaluationSummary:
        """Summarise an evaluation.

        Each rule's mask is a subset of the previous one, so their sum is the number of rules that a slot passed.
        """
        passed = np.zeros(len(evaluation.used), np.uint8)
        for _, admitted in evaluation.trail:
            passed += admitted.view(np.uint8)
        return cls(
            reasons=tuple(reason for reason, _ in evaluation.trail),
            passed=passed,
            used=evaluation.used,
            campaigns=evaluation.campaigns,
            slots=evaluation.slots,
            states_M=evaluation.states_M,
            eligible_count=len(evaluation.rows_E),
            bids=evaluation.bids[evaluation.slots],
        )

    def counts(self) -> dict[Reason, int]:
        """Count the exclusions by reason: campaigns, or creatives where the reason is the creative's own."""
        stopped = np.bincount(self.passed, minlength=len(self.reasons) + 1)
        stopped[0] -= len(self.used) - np.count_nonzero(self.used)  # unused slots, which no rule admits
        found: dict[Reason, int] = {}
        for reason, count in zip(self.reasons, stopped.tolist(), strict=False):
            if count:
                found[reason] = found.get(reason, 0) + count
        if self.eligible_count < len(self.states_M):
            states = np.bincount(self.states_M, minlength=len(CreativeState))
            found |= {reason: int(states[state]) for state, reason in CREATIVE_REASONS.items() if states[state]}
        return found

    def eligible(self) -> list[EligibleRecord]:
        """Return the eligible creatives with their adjusted bids."""
        return [
            EligibleRecord(ad_id, campaign.id, bid) for campaign, ad_id, bid, reason in self._judged() if reason is None
        ]

    def exclusions(self) -> list[ExclusionRecord]:
        """Return every other creative with its reason; iterates over all campaigns."""
        found = []
        for slot in np.flatnonzero(self.used & (self.passed < len(self.reasons))).tolist():
            campaign, reason = self.campaigns[slot], self.reasons[self.passed[slot]]
            if campaign is not None:
                ids = [creative.id for creative in campaign.creatives] or [""]
                found += [ExclusionRecord(campaign.id, ad_id, reason) for ad_id in ids]
        judged = self._judged()
        return found + [ExclusionRecord(c.id, ad_id, reason) for c, ad_id, _, reason in judged if reason is not None]

    def _judged(self) -> Iterator[tuple[Campaign, AdId, Micros, Reason | None]]:
        """Yield the creatives of the campaigns that passed all rules, with the reason of an excluded one."""
        states = iter(self.states_M.tolist())
        for slot, bid in zip(self.slots.tolist(), self.bids.tolist(), strict=True):
            campaign = self.campaigns[slot]
            for creative in campaign.creatives if campaign is not None else ():
                yield campaign, creative.id, bid, CREATIVE_REASONS.get(next(states))


@dataclass(frozen=True, slots=True)
class OwnedRecord:
    """A record, its owner (the id of the API key, empty without one), and the evaluation it derives from."""

    record: AuctionRecord
    owner: str
    evaluation: EvaluationSummary | None

    def full(self) -> FullRecord:
        """Return the record with every creative; slow with many campaigns."""
        return FullRecord(
            **msgspec.structs.asdict(self.record),
            eligible_creatives=self.evaluation.eligible() if self.evaluation else [],
            exclusions=self.evaluation.exclusions() if self.evaluation else [],
        )


class AuctionLog:
    """The newest `size` records by auction id. Used on the event loop only.

    Records are kept encoded: thousands of them as objects would lengthen every pause of the garbage collector.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[str, _Encoded] = OrderedDict()

    def add(self, owned: OwnedRecord) -> None:
        """Add a record and drop the oldest past the size."""
        self._entries[owned.record.auction_id] = _Encoded(_encode(owned.record), owned.owner, owned.evaluation)
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
        return OwnedRecord(_decode(self.record), self.owner, self.evaluation)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AuctionRecord).decode


def new_auction_id() -> str:
    """Create a UUIDv7 (RFC 9562); ids sort by their time of creation, to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | secrets.randbits(62)))
