"""Slow variables of a returning user: ad fatigue and trust, which one answer changes and later clicks depend on.

Fatigue is a leaky count of recent impressions of an ad and of its advertiser with a half-life. Trust is a running
average of the quality of the answers seen; it scales clicks and the probability that the user returns. Pure rules on a
frozen state. Clicks of a single answer (relevance, nativeness, competition) are left to `simulator.clicks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mechanism.errors import InputError
from mechanism.types import Ad, AdId

FORGOTTEN = 1e-6
"""Leaky counts below this are dropped, so that a state does not grow without bound."""


@dataclass(frozen=True, slots=True)
class FatigueSettings:
    """Parameters of fatigue and trust.

    Click probability is multiplied by 2^-(count / tolerance) for the ad and for its advertiser; a count halves every
    `half_life` seconds, and a clicked impression counts `clicked_weight` more, since the need is met. Trust moves
    towards the quality of each answer: relevance minus `overload` for each ad beyond `comfortable_ads`, slowly up
    (`gain`) and quickly down (`loss`).
    """

    half_life: float = 86_400.0
    ad_tolerance: float = 3.0
    advertiser_tolerance: float = 8.0
    clicked_weight: float = 0.5
    comfortable_ads: int = 2
    overload: float = 0.35
    gain: float = 0.1
    loss: float = 0.2
    click_floor: float = 0.3
    return_floor: float = 0.2
    return_ceiling: float = 0.95

    def __post_init__(self) -> None:
        for name in ("half_life", "ad_tolerance", "advertiser_tolerance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"fatigue.{name}", value, "give a finite number above 0")
        for name in ("gain", "loss", "click_floor", "return_floor", "return_ceiling"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"fatigue.{name}", getattr(self, name), "give a number in [0, 1]")
        for name in ("clicked_weight", "overload", "comfortable_ads"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InputError(f"fatigue.{name}", getattr(self, name), "give 0 or more")
        if self.return_floor > self.return_ceiling:
            raise InputError("fatigue.return_floor", self.return_floor, "give at most fatigue.return_ceiling")


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's state between answers.

    `ads` and `advertisers` hold leaky impression counts as of `at` (seconds of any monotonic clock); `owners` maps
    every counted ad to its advertiser.
    """

    trust: float = 0.7
    at: float = 0.0
    ads: Mapping[AdId, float] = field(default_factory=dict)
    advertisers: Mapping[str, float] = field(default_factory=dict)
    owners: Mapping[AdId, str] = field(default_factory=dict)
    settings: FatigueSettings = FatigueSettings()

    def __post_init__(self) -> None:
        if not 0.0 <= self.trust <= 1.0:
            raise InputError("trust", self.trust, "give a number in [0, 1]")

    def after(
        self, shown: Sequence[Ad], clicked: Iterable[AdId], relevance: float, n_ads: int, now: float
    ) -> UserState:
        """Return the state after one answer at `now` that showed the ads `shown`, of which `clicked` were clicked.

        `relevance` in [0, 1] is how well answer and ads served the user, `n_ads` the number of insertions, repeated
        ones included.

        Raises:
            InputError: if a figure is out of range, a clicked ad was not shown, or `now` is before the state's time.
        """
        s = self.settings
        hit = frozenset(clicked)
        unseen = hit - {ad.id for ad in shown}
        if unseen:
            raise InputError("clicked", sorted(unseen)[0], "only a shown ad can be clicked")
        if not 0.0 <= relevance <= 1.0:
            raise InputError("relevance", relevance, "give a number in [0, 1]")
        if n_ads < len({ad.id for ad in shown}):
            raise InputError("n_ads", n_ads, "count at least every shown ad")
        kept = self._kept(now)
        ads = _faded(self.ads, kept)
        advertisers = _faded(self.advertisers, kept)
        for ad in {ad.id: ad for ad in shown}.values():
            impression = 1.0 + (s.clicked_weight if ad.id in hit else 0.0)
            ads[ad.id] = ads.get(ad.id, 0.0) + impression
            advertisers[ad.advertiser] = advertisers.get(ad.advertiser, 0.0) + impression
        known = {**self.owners, **{ad.id: ad.advertiser for ad in shown}}
        return UserState(
            trust=self._trust_after(relevance, n_ads),
            at=now,
            ads=ads,
            advertisers=advertisers,
            owners={i: known[i] for i in ads},
            settings=s,
        )

    def click_factor(self, ad_id: AdId, now: float, advertiser: str | None = None) -> float:
        """Return the factor in [0, 1] on the click probability of an ad at `now`: ad and advertiser fatigue x trust.

        `advertiser` is needed only for an ad that the user may not have seen yet.
        """
        s = self.settings
        kept = self._kept(now)
        owner = self.owners.get(ad_id) if advertiser is None else advertiser
        weariness = self.ads.get(ad_id, 0.0) / s.ad_tolerance
        if owner is not None:
            weariness += self.advertisers.get(owner, 0.0) / s.advertiser_tolerance
        return float(2.0 ** -(kept * weariness)) * (s.click_floor + (1.0 - s.click_floor) * self.trust)

    @property
    def return_probability(self) -> float:
        """Probability that the user asks another question, from trust."""
        s = self.settings
        return s.return_floor + (s.return_ceiling - s.return_floor) * self.trust

    def _trust_after(self, relevance: float, n_ads: int) -> float:
        s = self.settings
        quality = max(0.0, relevance - s.overload * max(0, n_ads - s.comfortable_ads))
        rate = s.gain if quality > self.trust else s.loss
        return min(1.0, max(0.0, self.trust + rate * (quality - self.trust)))

    def _kept(self, now: float) -> float:
        """Return the share of a leaky count that is left at `now`.

        Raises:
            InputError: if `now` is before the state's time.
        """
        if not (math.isfinite(now) and now >= self.at):
            raise InputError("now", now, f"give a time at or after {self.at}, when this user was last seen")
        return float(2.0 ** -((now - self.at) / self.settings.half_life))


def _faded(counts: Mapping[str, float], kept: float) -> dict[str, float]:
    return {name: count * kept for name, count in counts.items() if count * kept >= FORGOTTEN}
