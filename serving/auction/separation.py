"""Separation of competitors: which candidates may share a prompt.

Separation is applied before the prompt, because the policy may show any subset of its candidates and a streamed answer
cannot be taken back. A higher bid never hurts a candidate, as everywhere in the mechanism.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from mechanism.types import AdId, Micros


class SeparationReason(StrEnum):
    """Why an eligible creative that retrieval found does not share the prompt with a better one."""

    SAME_CAMPAIGN = "same_campaign"
    """Another creative of its campaign is in the prompt."""
    SEPARATION_GROUP = "separation_group"
    """A campaign of its separation group is in the prompt."""
    BLOCKED_COMPETITOR = "blocked_competitor"
    """One of the two campaigns blocks the other's advertiser."""


class Contender(NamedTuple):
    """A creative that competes for a place in the prompt.

    `relevance` is >= 0. The `group` "" is not separated from any other. `blocked` names advertisers that must not share
    its prompt, spelled like `advertiser`; its own advertiser among them is ignored.
    """

    creative_id: AdId
    campaign_id: str
    advertiser: str
    group: str
    relevance: float
    bid: Micros
    blocked: frozenset[str] = frozenset()


class Displaced(NamedTuple):
    """A contender that does not enter the prompt because of the better creative `winner`."""

    creative_id: AdId
    campaign_id: str
    reason: SeparationReason
    winner: AdId


def separate(contenders: Iterable[Contender]) -> tuple[tuple[Contender, ...], tuple[Displaced, ...]]:
    """Return the contenders that may share one prompt, in their given order, and the displaced ones, best first.

    At most one per separation group and one per campaign: the one with the highest relevance times bid, then the higher
    relevance, then the smaller creative id. If one of two campaigns blocks the other's advertiser, the better one by
    the same order stays.
    """
    given = tuple(contenders)
    groups: dict[str, AdId] = {}
    campaigns: dict[str, AdId] = {}
    advertisers: dict[str, AdId] = {}
    blocked_by: dict[str, AdId] = {}
    kept: set[AdId] = set()
    displaced: list[Displaced] = []
    for one in sorted(given, key=lambda c: (-c.relevance * c.bid, -c.relevance, c.creative_id)):
        blocked = one.blocked - {one.advertiser} if one.blocked else one.blocked
        if (winner := campaigns.get(one.campaign_id)) is not None:
            reason = SeparationReason.SAME_CAMPAIGN
        elif (winner := groups.get(one.group)) is not None:
            reason = SeparationReason.SEPARATION_GROUP
        elif (winner := blocked_by.get(one.advertiser) or _first(blocked, advertisers)) is not None:
            reason = SeparationReason.BLOCKED_COMPETITOR
        else:
            kept.add(one.creative_id)
            campaigns[one.campaign_id] = one.creative_id
            advertisers.setdefault(one.advertiser, one.creative_id)
            for name in blocked:
                blocked_by.setdefault(name, one.creative_id)
            if one.group:
                groups[one.group] = one.creative_id
            continue
        displaced.append(Displaced(one.creative_id, one.campaign_id, reason, winner))
    return tuple(c for c in given if c.creative_id in kept), tuple(displaced)


def _first(blocked: frozenset[str], advertisers: dict[str, AdId]) -> AdId | None:
    """Return the smallest id among the kept creatives of blocked advertisers, None if there is none."""
    return min((advertisers[name] for name in blocked if name in advertisers), default=None) if blocked else None
