"""Which candidates are close to what a user wants, by the frozen encoder: known before any click."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Context

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit vectors (texts, width)."""
NEAR = 6
"""Candidates that count as close before there is a click predictor."""
FAR_RATE = 0.1
"""Click rate assumed of the others, of what is assumed of those."""


def nearest_ads(context: Context, count: int, encode: Encode) -> tuple[AdId, ...]:
    """Return the `count` candidates closest to the question, an earlier turn or, with consent, an interest of the user.

    A swap to one of them asks which of the ads that fit is best; against any other ad the answer is known.
    """
    wishes = [context.query, *(text for _, text in context.turns)]
    wishes += context.profile.interests if context.profile else ()
    ads = [c.ad for c in context.candidates]
    cosines_NW = encode([ad.text or ad.title for ad in ads]) @ encode(wishes).T
    return tuple(ads[int(i)].id for i in np.argsort(-cosines_NW.max(1), kind="stable")[:count])


def fitting_rates(context: Context, encode: Encode) -> dict[AdId, float]:
    """Return click rates to go by before there is a click predictor."""
    near = nearest_ads(context, NEAR, encode)
    return {c.ad.id: 1.0 if c.ad.id in near else FAR_RATE for c in context.candidates}
