"""The record of each auction: who took part at which bid, why all others did not, what was shown and what is paid.

OwnedRecord in memory for the newest answers of this router. It holds neither the question nor the profile, only whether one
was used. What the record says of exclusions is worked out when it is read.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility import CREATIVE_REASONS, CreativeState, Evaluation, Reason
from serving.auction.separation import SeparationReason
from serving.campaigns.types import Campaign, Pricing


class CandidateRecord(msgspec.Struct, frozen=True):
    """One ad in the prompt, with the bid adjusted for this request; `relevance` is what brought it in, `shown_bid` what
    the policy saw of the bid under the ad load."""

    ad_id: AdId
    campaign_id: str
    title: str
    advertiser: str
    category: str
    bid_micros: Micros
    shown_bid_micros: Micros
    pricing: Pricing
    relevance: float


class EligibleRecord(msgspec.Struct, frozen=True):
    """One creative that was eligible, whether or not it fitted into the prompt."""

    ad_id: AdId
    campaign_id: str
    bid_micros: Micros


class ExclusionRecord(msgspec.Struct, frozen=True):
    """A campaign's creative (`ad_id` empty: the campaign has none) that was left out, and why."""

    campaign_id: str
    ad_id: AdId
    reason: Reason


class ApartRecord(msgspec.Struct, frozen=True):
    """A creative that fitted the question but may not stand beside `winner`, a better one, and why."""

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
    """One ad that the reader saw; a click is charged once under `click_id`."""

    ad_id: AdId
    campaign_id: str
    click_id: str
    bid_micros: Micros


class PaymentRecord(msgspec.Struct, frozen=True):
    """What this auction itself makes an ad pay (impressions, participation). Clicks come later: see the reports."""

    ad_id: AdId
    campaign_id: str
    pricing: Pricing
    price_micros: Micros


class AuctionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One auction. `outcome` is "answered", "cut" (the deadline ended the answer), "cancelled" (the client left) or
    "failed". `generations` is 1; one more where an answer without ads replaced a failed one. `left_out` were written by
    the policy past the request's maximum, `faults` are kinds of broken markers that no reader saw."""

    auction_id: str
    created: int
    outcome: str
    model: str
    model_digest: str
    seed: int
    currency: str
    placement: str
    profile_used: bool
    generations: int
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
    """An evaluation in little room: of each slot how many rules it survived, of each creative its state."""

    reasons: tuple[Reason, ...]
    survived: NDArray[np.uint8]
    used: NDArray[np.bool_]
    campaigns: tuple[Campaign | None, ...]
    slots: NDArray[np.int64]
    states_M: NDArray[np.uint8]
    rows: int
    bids: NDArray[np.int64]

    @classmethod
    def of(cls, evaluation: Evaluation) -> EvaluationSummary:
        """Each rule's mask lies within the one before, so their sum says at which rule a slot was stopped."""
        survived = np.zeros(len(evaluation.used), np.uint8)
        for _, alive in evaluation.trail:
            survived += alive.view(np.uint8)
        reasons = tuple(reason for reason, _ in evaluation.trail)
        bids = evaluation.bids[evaluation.slots]
        rows = len(evaluation.rows_E)
        states = evaluation.states_M
        return cls(reasons, survived, evaluation.used, evaluation.campaigns, evaluation.slots, states, rows, bids)

    def counts(self) -> dict[Reason, int]:
        """As `Evaluation.counts`: campaigns, or for the creatives' own reasons creatives, by reason."""
        stopped = np.bincount(self.survived, minlength=len(self.reasons) + 1)
        stopped[0] -= len(self.used) - np.count_nonzero(self.used)  # empty slots, which no rule admits
        found: dict[Reason, int] = {}
        for reason, count in zip(self.reasons, stopped.tolist(), strict=False):
            if count:
                found[reason] = found.get(reason, 0) + count
        if self.rows < len(self.states_M):
            states = np.bincount(self.states_M, minlength=len(CreativeState))
            found |= {reason: int(states[s]) for s, reason in CREATIVE_REASONS.items() if states[s]}
        return found

    def eligible(self) -> list[EligibleRecord]:
        """The eligible creatives at their adjusted bids."""
        return [EligibleRecord(ad_id, campaign.id, bid) for campaign, ad_id, bid, why in self._judged() if why is None]

    def exclusions(self) -> list[ExclusionRecord]:
        """Everything else, with its reason. Walks through all campaigns."""
        found = []
        for slot in np.flatnonzero(self.used & (self.survived < len(self.reasons))).tolist():
            campaign, reason = self.campaigns[slot], self.reasons[self.survived[slot]]
            if campaign is not None:
                ids = [creative.id for creative in campaign.creatives] or [""]
                found += [ExclusionRecord(campaign.id, ad_id, reason) for ad_id in ids]
        return found + [ExclusionRecord(c.id, ad_id, why) for c, ad_id, _, why in self._judged() if why is not None]

    def _judged(self) -> Iterator[tuple[Campaign, AdId, Micros, Reason | None]]:
        """The creatives of the campaigns that passed all rules."""
        states = iter(self.states_M.tolist())
        for slot, bid in zip(self.slots.tolist(), self.bids.tolist(), strict=True):
            campaign = self.campaigns[slot]
            for creative in campaign.creatives if campaign is not None else ():
                yield campaign, creative.id, bid, CREATIVE_REASONS.get(next(states))


@dataclass(frozen=True, slots=True)
class OwnedRecord:
    """A record, whose it is (the id of the key that asked, empty for nobody's), and what it can be told from."""

    record: AuctionRecord
    owner: str
    outcome: EvaluationSummary | None

    def full(self) -> FullRecord:
        """The whole record; slow with many campaigns."""
        eligible = self.outcome.eligible() if self.outcome else []
        exclusions = self.outcome.exclusions() if self.outcome else []
        fields = {name: getattr(self.record, name) for name in AuctionRecord.__struct_fields__}
        return FullRecord(**fields, eligible_creatives=eligible, exclusions=exclusions)


class AuctionLog:
    """The newest `size` records by auction id. Belongs to the event loop.

    They are kept encoded: thousands of records as objects would lengthen every pause of the garbage collector.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, _Packed] = OrderedDict()

    def add(self, kept: OwnedRecord) -> None:
        """Keeps a record and forgets the oldest past the size."""
        self._kept[kept.record.auction_id] = _Packed(_encode(kept.record), kept.owner, kept.outcome)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def get(self, auction_id: str) -> OwnedRecord | None:
        """The record of an auction, None where it is unknown or forgotten."""
        packed = self._kept.get(auction_id)
        return None if packed is None else packed.kept()

    def newest(self, owner: str | None, before: str, count: int) -> list[OwnedRecord]:
        """Records of one owner, or of all (None), newest first, older than the auction `before` ("": from the newest
        on); auction ids sort by time."""
        chosen = (
            packed
            for auction_id, packed in reversed(self._kept.items())
            if (owner is None or packed.owner == owner) and (not before or auction_id < before)
        )
        return [packed.kept() for packed in islice(chosen, count)]


@dataclass(frozen=True, slots=True)
class _Packed:
    record: bytes
    owner: str
    outcome: EvaluationSummary | None

    def kept(self) -> OwnedRecord:
        return OwnedRecord(_decode(self.record), self.owner, self.outcome)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AuctionRecord).decode


def new_auction_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by time of creation to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | secrets.randbits(62)))
