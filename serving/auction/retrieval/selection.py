"""From what retrieval found to the candidates of one prompt: separated, cut to the prompt, in a stable order.

The order is that of creative ids. A model server's prefix cache keeps a prompt up to its first difference: under a
fixed order two prompts with the same candidates share all of their offers, and others share the rules and the offers
before the first difference. An order by score would change with every question and end the shared part at the first
offer; an order by bid would besides say by position what the number says. Ordering by popularity might share a little
more, and would change under a running cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mechanism.types import AdId
from serving.auction.retrieval.index import Found
from serving.auction.separation import Contender, Loss, separate
from serving.campaigns.types import normal


def prompt_candidates(found: Sequence[Found], count: int) -> tuple[tuple[Found, ...], tuple[Loss, ...]]:
    """The `count` best of `found` (best first) that may stand together, ordered by creative id, and what of `found` may
    not. Search for a few times `count`, so that the prompt is full even after separation."""
    contenders = {
        f.eligible.creative.id: Contender(
            f.eligible.creative.id,
            f.eligible.campaign.id,
            normal(f.eligible.campaign.advertiser_id),
            f.eligible.campaign.separation,
            f.relevance,
            f.eligible.bid,
            _normal_names(f.eligible.campaign.block_advertisers),
        )
        for f in found
    }
    together, lost = separate(contenders.values())
    kept = {c.creative_id for c in together}
    chosen = [f for f in found if f.eligible.creative.id in kept][:count]
    return tuple(sorted(chosen, key=lambda f: natural_order(f.eligible.creative.id))), lost


@lru_cache(maxsize=20_000)
def _normal_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(normal, names))


@lru_cache(maxsize=200_000)
def natural_order(ad_id: AdId) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which A2 stands before A10; ids that differ only in leading zeros fall back to their text."""
    parts = re.findall(r"\d+|\D+", ad_id)
    return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts), (2, 0, ad_id))
