"""How much worse a new version may be, by figure; None switches a figure off."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mechanism.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest differences between the new version and the old one that are tolerated.

    `confidence` holds for a whole canary: of versions that equal the old one, at most 1 - `confidence` are rolled back,
    however often the guard looks. `max_failure_rate`: largest share of failed answers, whatever the old version does.
    The others compare: failures and answers without ads by the rise of their share, revenue and clicks per ad by the
    share that is lost, ads per answer by the share that is added, the penalty of what is shown in points an answer.
    `max_latency_ratio`: largest ratio of the 95th percentiles of seconds per answer, where answers below `fast_s`
    seconds never count as slow. `min_answers` ripe answers of the new version are needed before it may be called safe.

    Raises:
        ConfigError: for a value out of range.
    """

    confidence: float = 0.99
    max_failure_rate: float | None = None
    max_failure_rise: float | None = 0.02
    max_latency_ratio: float | None = 3.0
    fast_s: float = 0.25
    max_revenue_loss: float | None = 0.1
    max_click_rate_loss: float | None = None
    max_ad_load_rise: float | None = None
    max_ad_free_rise: float | None = 0.25
    max_penalty_rise: float | None = 8.0
    min_answers: int = 300

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ConfigError("guard.confidence", self.confidence, "give a number from 0.5 to below 1")
        if self.max_latency_ratio is not None and not 0 < self.max_latency_ratio < math.inf:
            raise ConfigError("guard.max_latency_ratio", self.max_latency_ratio, "give a factor above 0")
        for name, value in (("fast_s", self.fast_s), ("min_answers", self.min_answers)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"guard.{name}", value, "give 0 or more")
        for name, limit in (
            ("max_failure_rate", self.max_failure_rate),
            ("max_failure_rise", self.max_failure_rise),
            ("max_revenue_loss", self.max_revenue_loss),
            ("max_click_rate_loss", self.max_click_rate_loss),
            ("max_ad_load_rise", self.max_ad_load_rise),
            ("max_ad_free_rise", self.max_ad_free_rise),
            ("max_penalty_rise", self.max_penalty_rise),
        ):
            if limit is not None and not math.isfinite(limit):
                raise ConfigError(f"guard.{name}", limit, "give a finite number, or leave the figure out")
