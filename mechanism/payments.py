"""First-price payment in its three forms (Eq. 7 of arXiv 2512.10551): per click, per impression, for participation.

All three expect b_i * itctr_i from advertiser i. Money is integer micros throughout; a probability is taken as the
exact fraction it is, and only the product is rounded, half to even. Budgets, idempotence and storage are the ledger's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from mechanism.errors import InputError
from mechanism.types import AdId, Answer, Micros

Probability = float | Decimal | Fraction


def click_payments(answer: Answer, bids: Mapping[AdId, Micros], clicks: Mapping[AdId, bool]) -> dict[AdId, Micros]:
    """Pay per click: each clicked ad pays its bid of this auction, once. Ads without a click are not in the result.

    Raises InputError for a click on an ad that the answer does not show, and for a missing or bad bid.
    """
    shown = answer.shown()
    for ad_id, clicked in clicks.items():
        if clicked and ad_id not in shown:
            raise InputError("click", ad_id, "only an ad that the answer shows can be clicked")
    return {ad_id: _bid(bids, ad_id) for ad_id in shown if clicks.get(ad_id, False)}


def impression_payments(
    answer: Answer, bids: Mapping[AdId, Micros], pctr: Mapping[AdId, Probability]
) -> dict[AdId, Micros]:
    """Pay per impression: each shown ad pays bid * pctr at serving time, once, clicked or not; never above its bid.

    Raises InputError for a shown ad without a bid or a probability within 0..1.
    """
    return {ad_id: _share(_bid(bids, ad_id), _probability(pctr, ad_id, "pctr")) for ad_id in answer.shown()}


def participation_payments(bids: Mapping[AdId, Micros], itctr: Mapping[AdId, Probability]) -> dict[AdId, Micros]:
    """Pay for taking part: every bidding ad pays b_i * itctr_i (Def. 3.1), whether the answer shows it or not.

    Raises InputError for an ad without an insertion-through click rate within 0..1.
    """
    return {ad_id: _share(_bid(bids, ad_id), _probability(itctr, ad_id, "itctr")) for ad_id in bids}


def _share(bid: Micros, probability: Fraction) -> Micros:
    return round(bid * probability)  # Fraction rounds exactly, half to even; probability <= 1 keeps it <= bid


def _bid(bids: Mapping[AdId, Micros], ad_id: AdId) -> Micros:
    bid = bids.get(ad_id)
    if isinstance(bid, bool) or not isinstance(bid, int) or bid < 0:
        raise InputError(f"bid of ad {ad_id!r}", bid, "give a whole number of micros >= 0")
    return bid


def _probability(rates: Mapping[AdId, Probability], ad_id: AdId, name: str) -> Fraction:
    rate = rates.get(ad_id)
    if rate is None or not math.isfinite(rate) or not 0 <= rate <= 1:
        raise InputError(f"{name} of ad {ad_id!r}", rate, "give a probability within 0..1")
    return Fraction(*rate.as_integer_ratio())
