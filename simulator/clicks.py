"""The ground truth of the simulator: with what probability each shown ad is clicked, and clicks drawn from it.

Four causes, as in the evaluation of arXiv 2512.10551 (section 5): relevance to the query and to the user (frozen text
encoder), nativeness of the sentence that carries the ad, competition between the shown ads, and flooding. It reads
only the visible answer, so it applies to any model's text. Trainers must not use it, except as an oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import PUSHY, Carrier, carrier
from mechanism.types import Ad, AdId, Answer, Context


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """Parameters of the ground truth. Probabilities are per shown ad; cosines are the frozen encoder's.

    `query_range` and `taste_range` map cosines linearly onto relevance 0..1; taste counts `taste_weight` of a query
    match. A sentence that says nothing on the query has nativeness `foreign`, a pushy one at most `pushy`. The
    nativeness is multiplied by `opening` if the sentence opens the answer, and by `repeated` if more than half of its
    three-word runs occur earlier in the answer. `competition` is how much each further ad distracts. With more than
    `flood_after` distinct ads, or one ad shown twice, no ad is clicked.
    """

    best: float = 0.8
    query_range: tuple[float, float] = (0.12, 0.55)
    taste_range: tuple[float, float] = (0.15, 0.5)
    taste_weight: float = 0.6
    native_range: tuple[float, float] = (0.15, 0.5)
    foreign: float = 0.45
    pushy: float = 0.25
    opening: float = 0.8
    repeated: float = 0.6
    competition: float = 0.25
    flood_after: int = 3


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an ad is or is not clicked: relevance and nativeness in 0..1, and the resulting probability."""

    relevance: float
    nativeness: float
    probability: float


class ClickModel:
    """Known click probabilities for any answer. Stateless but for the encoder's cache."""

    def __init__(self, settings: ClickSettings | None = None) -> None:
        self.settings = settings or ClickSettings()

    def relevance(self, context: Context, ads: list[Ad]) -> NDArray[np.float64]:
        """Return the relevance of each ad to query and, with consent, interests, shape (len(ads),), 0..1."""
        s = self.settings
        interests = ", ".join(context.profile.interests) if context.profile else ""
        vectors = _encode([context.query, interests, *(f"{ad.title}: {ad.text}" for ad in ads)])
        by_query = _ramp(vectors[2:] @ vectors[0], s.query_range)
        by_taste = _ramp(vectors[2:] @ vectors[1], s.taste_range) if interests else np.zeros(len(ads))
        return 1.0 - (1.0 - by_query) * (1.0 - s.taste_weight * by_taste)

    def nativeness(self, context: Context, carriers: list[Carrier]) -> NDArray[np.float64]:
        """Return the nativeness of the sentences that carry ads, shape (len(carriers),), 0..1."""
        s = self.settings
        vectors = _encode([context.query, *(c.text for c in carriers)])
        fit = s.foreign + (1.0 - s.foreign) * _ramp(vectors[1:] @ vectors[0], s.native_range)
        pushy = np.array([s.pushy if PUSHY.search(c.text) else 1.0 for c in carriers])
        opening = np.array([s.opening if c.opens else 1.0 for c in carriers])
        repeated = np.array([s.repeated if c.echo > 0.5 else 1.0 for c in carriers])
        return np.asarray(np.minimum(fit, pushy) * opening * repeated)

    def causes(self, context: Context, answer: Answer) -> dict[AdId, Cause]:
        """Return relevance, nativeness and click probability of every distinct shown ad."""
        by_id = {c.ad.id: c.ad for c in context.candidates}
        shown = [by_id[i] for i in answer.shown() if i in by_id]
        if not shown:
            return {}
        relevance = self.relevance(context, shown)
        nativeness = self.nativeness(context, [carrier(answer, ad) for ad in shown])
        appeal = self.settings.best * relevance * nativeness
        if len(shown) > self.settings.flood_after or len(answer.insertions) > len(shown):
            appeal = np.zeros(len(shown))
        probability = appeal / (1.0 + self.settings.competition * (len(shown) - 1))
        return {
            ad.id: Cause(float(relevance[i]), float(nativeness[i]), float(probability[i])) for i, ad in enumerate(shown)
        }

    def probabilities(self, context: Context, answer: Answer) -> dict[AdId, float]:
        """Return ctr_i(x, h, a_i, y) of every distinct shown ad."""
        return {ad_id: cause.probability for ad_id, cause in self.causes(context, answer).items()}

    def click(self, probabilities: Mapping[AdId, float], rng: np.random.Generator) -> dict[AdId, bool]:
        """Draw independent clicks from the given probabilities."""
        return {ad_id: bool(rng.random() < p) for ad_id, p in probabilities.items()}


def _ramp(cosines: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float64]:
    low, high = limits
    return np.clip((cosines.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def _encode(texts: list[str]) -> NDArray[np.float32]:
    from inference.encoder import shared_encoder

    return shared_encoder().encode(texts)
