"""Generalised second-price position auction before generation, then writing (pre-generation, arXiv 2404.08126).

Ads are ranked by bid * pCTR, predicted before any answer exists. The best take the slots at generalised second prices;
then the policy writes one answer from the winners alone, in which all of them are shown. The ranking cannot take the
answer into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechanism.baselines.ranking import Won, check_weights, price_to_keep, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class GspSettings:
    """At most `slots` ads win, none whose score bid * pCTR is under `reserve` micros: fewer win where little fits."""

    slots: int = 2
    reserve: Micros = 0

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError("slots", self.slots, "give at least one slot")


def allocate(bids: Mapping[AdId, Micros], pctr: Mapping[AdId, float], settings: GspSettings) -> tuple[Won, ...]:
    """Return the winners in slot order, with their prices per click.

    Winner i pays max(score_{i+1}, reserve) / pctr_i, rounded up to micros; the ad ranked below need not hold a slot
    itself. A missing, negative or non-finite `pctr` is an InputError.
    """
    check_weights("pctr", bids, pctr)
    ranking = rank(bids, pctr, settings.reserve)
    below = [*ranking[1:], None]
    pairs = list(zip(ranking, below, strict=False))[: settings.slots]
    return tuple(Won(own.ad_id, price_to_keep(own, next_one, settings.reserve)) for own, next_one in pairs)
