"""Which candidates may stand together in one prompt, so that no answer can show two that must be kept apart.

Settled before the prompt: the policy may show any subset of its candidates, and a streamed answer cannot be taken back.
A higher bid can only help a candidate here, as everywhere in the mechanism.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class Contender:
    """What separation looks at. `relevance` is >= 0; `group` "" stands apart from nobody."""

    creative_id: AdId
    campaign_id: str
    advertiser_id: str
    group: str
    relevance: float
    bid: Micros


def separate(
    contenders: Iterable[Contender], conflicts: Mapping[str, frozenset[str]] | None = None
) -> tuple[Contender, ...]:
    """The contenders that may enter one prompt, in the order they came in.

    At most one per separation group and one per campaign: the one with the highest relevance times bid, then the
    higher relevance, then the smaller creative id. `conflicts` names, by advertiser, others that it must not stand
    beside (either side may name the other); the better of the two stays, by the same order.
    """
    conflicts = conflicts or {}
    arrived = tuple(contenders)
    groups: set[str] = set()
    campaigns: set[str] = set()
    advertisers: set[str] = set()
    shut_out: set[str] = set()
    kept: set[AdId] = set()
    for one in sorted(arrived, key=lambda c: (-c.relevance * c.bid, -c.relevance, c.creative_id)):
        named = conflicts.get(one.advertiser_id, frozenset()) - {one.advertiser_id}
        if (
            one.campaign_id in campaigns
            or (one.group and one.group in groups)
            or one.advertiser_id in shut_out
            or not named.isdisjoint(advertisers)
        ):
            continue
        kept.add(one.creative_id)
        campaigns.add(one.campaign_id)
        advertisers.add(one.advertiser_id)
        shut_out |= named
        if one.group:
            groups.add(one.group)
    return tuple(c for c in arrived if c.creative_id in kept)
