"""What a load saw of a server, and percentiles of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Measured:
    """What one load saw; times in seconds. `gaps` are the times between two frames of an answer; those that came with
    one read are 0 apart and only counted, in `joined`. `lost` counts numbered deltas that did not arrive, `failed`
    requests that were not answered."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    lost: int = 0
    frames: int = 0
    joined: int = 0
    most_open: int = 0
    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def latency_ms(self, percent: float) -> float:
        """Percentile of the time to the last byte."""
        return percentile_ms(self.latencies, percent)

    def first_ms(self, percent: float) -> float:
        """Percentile of the time to the first numbered delta."""
        return percentile_ms(self.first, percent)

    def gap_ms(self, percent: float) -> float:
        """Percentile of the time between frames."""
        return percentile_ms(self.gaps, percent, self.joined)


def percentile_ms(seconds: list[float], percent: float, zeros: int = 0) -> float:
    """A percentile in milliseconds of times and `zeros` further ones that were 0 (nearest rank); 0 of nothing."""
    rank = math.ceil(percent / 100 * (len(seconds) + zeros)) - zeros
    if rank < 1 or not seconds:
        return 0.0
    return float(np.partition(np.array(seconds), rank - 1)[rank - 1]) * 1_000
