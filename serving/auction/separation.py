"""Which candidates may stand together in one prompt, so that no answer can show two that must be kept apart.

Settled before the prompt: the policy may show any subset of its candidates, and a streamed answer cannot be taken back.
A higher bid can only help a candidate here, as everywhere in the mechanism.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mechanism.types import AdId, Micros


class Apart(StrEnum):
    """Why an eligible creative that was found did not enter the prompt beside a better one."""

    SAME_CAMPAIGN = "same_campaign"
    """Another creative of its campaign stands."""
    SEPARATION_GROUP = "separation_group"
    """A campaign of its separation group stands."""
    BLOCKED_COMPETITOR = "blocked_competitor"
    """One of the two campaigns blocks the other's advertiser."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What separation looks at. `relevance` is >= 0; `group` "" stands apart from nobody. `blocked` names advertisers
    that it must not stand beside, written as `advertiser` is; its own among them means nothing."""

    creative_id: AdId
    campaign_id: str
    advertiser: str
    group: str
    relevance: float
    bid: Micros
    blocked: frozenset[str] = frozenset()


class Loss(NamedTuple):
    """A contender that may not enter, and the better one that it may not stand beside."""

    creative_id: AdId
    campaign_id: str
    reason: Apart
    winner: AdId


def separate(contenders: Iterable[Contender]) -> tuple[tuple[Contender, ...], tuple[Loss, ...]]:
    """The contenders that may enter one prompt, in the order they came in, and the others, the best first.

    At most one per separation group and one per campaign: the one with the highest relevance times bid, then the
    higher relevance, then the smaller creative id. Of two campaigns of which either blocks the other's advertiser the
    better stays, by the same order.
    """
    arrived = tuple(contenders)
    groups: dict[str, AdId] = {}
    campaigns: dict[str, AdId] = {}
    advertisers: dict[str, AdId] = {}
    shut_out: dict[str, AdId] = {}
    kept: set[AdId] = set()
    lost: list[Loss] = []
    for one in sorted(arrived, key=lambda c: (-c.relevance * c.bid, -c.relevance, c.creative_id)):
        blocked = one.blocked - {one.advertiser} if one.blocked else one.blocked
        if (winner := campaigns.get(one.campaign_id)) is not None:
            reason = Apart.SAME_CAMPAIGN
        elif (winner := groups.get(one.group)) is not None:
            reason = Apart.SEPARATION_GROUP
        elif (winner := shut_out.get(one.advertiser) or _first(blocked, advertisers)) is not None:
            reason = Apart.BLOCKED_COMPETITOR
        else:
            kept.add(one.creative_id)
            campaigns[one.campaign_id] = one.creative_id
            advertisers.setdefault(one.advertiser, one.creative_id)
            for name in blocked:
                shut_out.setdefault(name, one.creative_id)
            if one.group:
                groups[one.group] = one.creative_id
            continue
        lost.append(Loss(one.creative_id, one.campaign_id, reason, winner))
    return tuple(c for c in arrived if c.creative_id in kept), tuple(lost)


def _first(blocked: frozenset[str], advertisers: dict[str, AdId]) -> AdId | None:
    """A creative of the blocked advertisers among those that stand, None where there is none."""
    return min((advertisers[name] for name in blocked if name in advertisers), default=None) if blocked else None
