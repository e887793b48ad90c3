"""First-price payments in three forms: per click, per impression, for participation (Eq. 7 of arXiv 2512.10551).

All three charge advertiser i the same in expectation, b_i * itctr_i. Because the allocation is continuous in the bids
(Theorem 4.3), a second price would equal the first. Money is integer micros; a probability enters as the exact fraction
it is, and only the product is rounded, half to even. Budgets, idempotence and storage belong to the ledger.
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
    """Return what each clicked ad pays: its bid in this auction, once. Ads without a click are left out.

    Raises:
        InputError: if an ad was clicked that the answer does not show, or a clicked ad has no valid bid.
    """
    shown = answer.shown()
    for ad_id, clicked in clicks.items():
        if clicked and ad_id not in shown:
            raise InputError("click", ad_id, "only an ad that the answer shows can be clicked")
    return {ad_id: _bid(bids, ad_id) for ad_id in shown if clicks.get(ad_id, False)}


def impression_payments(
    answer: Answer, bids: Mapping[AdId, Micros], pctr: Mapping[AdId, Probability]
) -> dict[AdId, Micros]:
    """Return what each shown ad pays, clicked or not: b_i * pctr_i as predicted at serving time, once.

    A shown ad without a valid bid or a probability within 0..1 is an InputError.
    """
    return {ad_id: _expected(_bid(bids, ad_id), _probability(pctr, ad_id, "pctr")) for ad_id in answer.shown()}


def participation_payments(bids: Mapping[AdId, Micros], itctr: Mapping[AdId, Probability]) -> dict[AdId, Micros]:
    """Return what each bidding ad pays, shown or not: b_i * itctr_i.

    itctr_i = E_y[ctr_i(y) 1(a_i in y)] is the insertion-through click rate (Definition 3.1). A bidder without a valid
    bid or a rate within 0..1 is an InputError.
    """
    return {ad_id: _expected(_bid(bids, ad_id), _probability(itctr, ad_id, "itctr")) for ad_id in bids}


def _expected(bid: Micros, probability: Fraction) -> Micros:
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
