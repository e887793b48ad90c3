"""Separation of competitors: which candidates may share a prompt.

Separation is applied before the prompt, because the policy may show any subset of its candidates and a streamed answer
cannot be taken back. A higher bid never hurts a candidate, as everywhere in the mechanism.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from mechanism.types import AdId, Micros

_Rival: TypeAlias = tuple[str, str]
"""An advertiser in a category."""


class SeparationReason(StrEnum):
    """Why an eligible creative that retrieval found does not share the prompt with a better one."""

    SAME_CAMPAIGN = "same_campaign"
    """Another creative of its campaign is in the prompt."""
    SEPARATION_GROUP = "separation_group"
    """A campaign of its separation group is in the prompt."""
    BLOCKED_COMPETITOR = "blocked_competitor"
    """One of the two campaigns blocks the other's advertiser; both are of one category."""


class Contender(NamedTuple):
    """A creative that competes for a place in the prompt.

    `relevance` is >= 0. The `group` "" is not separated from any other. `blocked` names advertisers whose ads of the
    same `category` must not share its prompt, spelled like `advertiser`; its own advertiser among them is ignored.
    Without a category nothing is blocked.
    """

    creative_id: AdId
    campaign_id: str
    advertiser: str
    group: str
    relevance: float
    bid: Micros
    priority: int = 0
    category: str = ""
    blocked: frozenset[str] = frozenset()


class Displaced(NamedTuple):
    """A contender that does not enter the prompt because of the better creative `winner`."""

    creative_id: AdId
    campaign_id: str
    reason: SeparationReason
    winner: AdId


def separate(contenders: Iterable[Contender]) -> tuple[tuple[Contender, ...], tuple[Displaced, ...]]:
    """Return the contenders that may share one prompt, in their given order, and the displaced ones, best first.

    At most one per separation group and one per campaign: the one with the highest priority, then the highest relevance
    times bid, then the higher relevance, then the smaller creative id. If one of two campaigns in a category blocks the
    other's advertiser, the better one by the same order stays.
    """
    given = tuple(contenders)
    groups: dict[str, AdId] = {}
    campaigns: dict[str, AdId] = {}
    advertisers: dict[_Rival, AdId] = {}
    blocked_by: dict[_Rival, AdId] = {}
    kept: set[AdId] = set()
    displaced: list[Displaced] = []
    for one in sorted(given, key=lambda c: (-c.priority, -c.relevance * c.bid, -c.relevance, c.creative_id)):
        blocked = [(name, one.category) for name in one.blocked if name != one.advertiser] if one.category else []
        own = (one.advertiser, one.category)
        if (winner := campaigns.get(one.campaign_id)) is not None:
            reason = SeparationReason.SAME_CAMPAIGN
        elif (winner := groups.get(one.group)) is not None:
            reason = SeparationReason.SEPARATION_GROUP
        elif (winner := blocked_by.get(own) or _first(blocked, advertisers)) is not None:
            reason = SeparationReason.BLOCKED_COMPETITOR
        else:
            kept.add(one.creative_id)
            campaigns[one.campaign_id] = one.creative_id
            advertisers.setdefault(own, one.creative_id)
            for rival in blocked:
                blocked_by.setdefault(rival, one.creative_id)
            if one.group:
                groups[one.group] = one.creative_id
            continue
        displaced.append(Displaced(one.creative_id, one.campaign_id, reason, winner))
    return tuple(c for c in given if c.creative_id in kept), tuple(displaced)


def _first(blocked: Sequence[_Rival], advertisers: dict[_Rival, AdId]) -> AdId | None:
    """Return the smallest id among the kept creatives of blocked rivals, None if there is none."""
    return min((advertisers[rival] for rival in blocked if rival in advertisers), default=None)
