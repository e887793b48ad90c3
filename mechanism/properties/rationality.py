"""Individual rationality: no advertiser pays more than its bid a click, nor, if it bids at most its value, its value.

Payments are counted exactly, in integer micros: a single violation is a billing defect, not a statistical error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mechanism.errors import InputError
from mechanism.statistics import Interval, proportion_interval
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class Charge:
    """What one ad paid in one auction: `paid` micros for `clicks` clicks at `bid` micros a click.

    `value` is the advertiser's value of a click in micros, if it is known. A negative or non-integer amount is an
    InputError.
    """

    auction_id: str
    ad_id: AdId
    bid: Micros
    clicks: int
    paid: Micros
    value: Micros | None = None

    def __post_init__(self) -> None:
        for name, amount in (("bid", self.bid), ("clicks", self.clicks), ("paid", self.paid), ("value", self.value)):
            if name == "value" and amount is None:
                continue
            if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
                place = f"auction {self.auction_id} ad {self.ad_id} {name}"
                raise InputError(place, amount, "give a whole number >= 0 (money in micros)")

    @property
    def over_bid(self) -> Micros:
        """Micros paid above bid * clicks, or 0."""
        return max(0, self.paid - self.bid * self.clicks)

    @property
    def over_value(self) -> Micros:
        """Micros paid above value * clicks by an advertiser that bid at most its value, or 0."""
        if self.value is None or self.bid > self.value:
            return 0
        return max(0, self.paid - self.value * self.clicks)


@dataclass(frozen=True, slots=True)
class IndividualRationality:
    """Result for a set of charges.

    `rate` is the share of violating charges with Wilson's interval (at 0 violations its upper end bounds their
    frequency), `overcharged` the total micros paid too much, `largest` the largest single excess. `valued` counts the
    charges whose advertiser is known to bid at most its value, and `clicks` and `paid` (micros) sum over all charges;
    `examples` are the first violating (auction id, ad id).
    """

    charges: int
    clicks: int
    paid: Micros
    valued: int
    violations: int
    overcharged: Micros
    largest: Micros
    rate: Interval
    examples: tuple[tuple[str, AdId], ...]

    @property
    def holds(self) -> bool:
        """Whether no charge violates, of charges that could have: some were paid, and some values are known."""
        return self.violations == 0 and self.paid > 0 and self.valued > 0

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the violation rate."""
        return {
            **self.rate.to_dict(),
            "holds": self.holds,
            "charges": self.charges,
            "clicks": self.clicks,
            "paid_micros": self.paid,
            "valued": self.valued,
            "violations": self.violations,
            "overcharged_micros": self.overcharged,
            "largest_micros": self.largest,
            "examples": [list(e) for e in self.examples],
        }


def individual_rationality(charges: Iterable[Charge], level: float = 0.95, examples: int = 10) -> IndividualRationality:
    """Count the charges above the bid or, for b <= v, above the value.

    Raises:
        InputError: if there are no charges.
    """
    total = valued = clicks = paid = 0
    over: list[Micros] = []
    found: list[tuple[str, AdId]] = []
    for charge in charges:
        total += 1
        clicks += charge.clicks
        paid += charge.paid
        valued += charge.value is not None and charge.bid <= charge.value
        excess = max(charge.over_bid, charge.over_value)
        if excess:
            over.append(excess)
            if len(found) < examples:
                found.append((charge.auction_id, charge.ad_id))
    if not total:
        raise InputError("charges", 0, "give at least one charge")
    return IndividualRationality(
        charges=total,
        clicks=clicks,
        paid=paid,
        valued=valued,
        violations=len(over),
        overcharged=sum(over),
        largest=max(over, default=0),
        rate=proportion_interval(len(over), total, level),
        examples=tuple(found),
    )
