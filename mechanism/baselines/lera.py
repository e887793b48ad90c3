"""LERA (arXiv 2605.16474): retrieve ads by embedding, score them by the policy's logits, charge critical values.

The first stage keeps the `candidates` ads of the highest bid * retrieval relevance. The second ranks them by bid * the
policy's probability of naming each ad where an ad stands. A winner pays the smallest bid with which it would have
passed both stages. The scores do not depend on bids, so with a fixed number of slots reporting the value is a dominant
strategy for utility maximisers. The policy then writes one answer that shows the winners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechanism.baselines.ranking import Won, check_weights, price_to_keep, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class LeraSettings:
    """`candidates` ads pass the first stage and `slots` of them win, none whose second score is under `reserve`."""

    candidates: int = 5
    slots: int = 2
    reserve: Micros = 0

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError("slots", self.slots, "give at least one slot")
        if self.candidates < self.slots:
            raise InputError("candidates", self.candidates, f"give at least one for each of the {self.slots} slots")


def shortlist(
    bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], settings: LeraSettings
) -> dict[AdId, Micros]:
    """Return the ads that pass the first stage, best first, with the smallest bids (micros) that pass it.

    A missing, negative or non-finite relevance is an InputError.
    """
    check_weights("relevance", bids, relevance)
    ranking = rank(bids, relevance)
    passed, first_out = ranking[: settings.candidates], ranking[settings.candidates : settings.candidates + 1]
    return {own.ad_id: price_to_keep(own, first_out[0] if first_out else None) for own in passed}


def allocate(
    bids: Mapping[AdId, Micros],
    passing: Mapping[AdId, Micros],
    naming: Mapping[AdId, float],
    settings: LeraSettings,
) -> tuple[Won, ...]:
    """Return the winners among the ads of `passing` (the result of `shortlist`), with their prices per click.

    All winners stand against the first ad that wins no slot. A missing, negative or non-finite `naming` probability is
    an InputError.
    """
    own_bids = {ad_id: bids[ad_id] for ad_id in passing}
    check_weights("naming", own_bids, naming)
    ranking = rank(own_bids, naming, settings.reserve)
    first_out = ranking[settings.slots] if len(ranking) > settings.slots else None
    return tuple(
        Won(won.ad_id, max(passing[won.ad_id], price_to_keep(won, first_out, settings.reserve)))
        for won in ranking[: settings.slots]
    )
