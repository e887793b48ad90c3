"""The ground truth of the simulator: with what probability each shown ad is clicked, and clicks drawn from it.

The causes follow the evaluation of arXiv 2512.10551 (section 5): relevance to query and user, nativeness in the text,
competition between shown ads, flooding. Ads affect each other (externalities), so what one ad earns depends on the
whole answer: two ads for one need share their clicks, a sentence fits one ad and not another, and the text before an ad
changes what is relevant. Every formula is in docs/click-model.md. It reads only the visible answer, so it applies to
any model's text. Trainers must not use it, except as an oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import PUSHY, SENTENCE_BREAK, Carrier, carrier
from mechanism.types import Ad, AdId, Answer, Context
from simulator.word_vectors import shared_vectors

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """Parameters of the ground truth. Probabilities are per shown ad; cosines are those of `simulator.word_vectors`.

    Relevance: `need_range`, `taste_range` map cosines linearly onto 0..1; interests count `taste_weight` and what was
    read lately `history_weight` of a need match; the need is the question's vector plus `turn_weight` of the earlier
    turns' and `content_weight` of what the answer says before the ad.

    Sentence: `fit_range` and `topic_range` map the cosine with the ad and with the question onto 0..1; a sentence that
    says nothing of what the ad offers counts `misfit`, one off the question `foreign`, a pushy one at most `pushy`;
    `opening` if it opens the answer, `repeated` if more than half of its three-word runs occur earlier.

    Between ads: `place` is how much each ad before distracts, `load` how much each further ad in the answer does;
    `same_need_range` maps the cosine of two ads onto the share of their need that is the same, and `substitution` is
    how strongly such ads take each other's clicks. With more than `flood_after` distinct ads, or one ad shown twice, no
    ad is clicked.
    """

    best: float = 0.85
    need_range: tuple[float, float] = (0.12, 0.55)
    taste_range: tuple[float, float] = (0.2, 0.6)
    taste_weight: float = 0.55
    history_weight: float = 0.2
    turn_weight: float = 0.5
    content_weight: float = 0.4
    fit_range: tuple[float, float] = (0.05, 0.4)
    misfit: float = 0.45
    topic_range: tuple[float, float] = (0.05, 0.4)
    foreign: float = 0.7
    pushy: float = 0.3
    opening: float = 0.85
    repeated: float = 0.6
    place: float = 0.1
    load: float = 0.12
    same_need_range: tuple[float, float] = (0.12, 0.4)
    substitution: float = 1.5
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

    def relevance(self, context: Context, ads: Sequence[Ad], said: Sequence[str] | None = None) -> Floats:
        """Return the relevance of each ad to the need and, with consent, to the user, shape (len(ads),), 0..1.

        `said` is what the answer says before each ad; by default nothing.
        """
        s, encode = self.settings, shared_vectors().encode
        offers_ND = encode([_offer(ad) for ad in ads])
        turns = " ".join(text for _, text in context.turns)
        need_D = encode([context.query])[0] + s.turn_weight * encode([turns])[0]
        needs_ND = need_D + s.content_weight * encode(list(said)) if said else np.tile(need_D, (len(ads), 1))
        lengths_N = np.maximum(np.linalg.norm(needs_ND, axis=1), 1e-9)
        by_need = _ramp((needs_ND * offers_ND).sum(1) / lengths_N, s.need_range)
        if context.profile is None:
            return by_need
        by_taste = self._closest(offers_ND, context.profile.interests)
        by_history = self._closest(offers_ND, context.profile.history)
        liked = (1.0 - s.taste_weight * by_taste) * (1.0 - s.history_weight * by_history)
        return 1.0 - (1.0 - by_need) * liked

    def _closest(self, offers_ND: NDArray[np.float32], topics: Sequence[str]) -> Floats:
        """Return how well each ad matches the topic nearest to it, 0..1."""
        if not topics:
            return np.zeros(len(offers_ND))
        cosines_NT = offers_ND @ shared_vectors().encode(list(topics)).T
        return _ramp(cosines_NT.max(1), self.settings.taste_range)

    def nativeness(self, context: Context, ads: Sequence[Ad], carriers: Sequence[Carrier]) -> Floats:
        """Return the nativeness of the sentences that carry the ads, shape (len(ads),), 0..1."""
        s, encode = self.settings, shared_vectors().encode
        sentences_ND = encode([c.text for c in carriers])
        fit = _ramp((sentences_ND * encode([_offer(ad) for ad in ads])).sum(1), s.fit_range)
        topic = _ramp(sentences_ND @ encode([context.query])[0], s.topic_range)
        native = (s.misfit + (1.0 - s.misfit) * fit) * (s.foreign + (1.0 - s.foreign) * topic)
        pushy = np.array([s.pushy if PUSHY.search(c.text) else 1.0 for c in carriers])
        opening = np.array([s.opening if c.opens else 1.0 for c in carriers])
        repeated = np.array([s.repeated if c.echo > 0.5 else 1.0 for c in carriers])
        return np.asarray(np.minimum(native, pushy) * opening * repeated)

    def same_need(self, ads: Sequence[Ad]) -> Floats:
        """Return the share of its need that each ad has in common with each other ad, (ads, ads); 0 with itself."""
        offers_ND = shared_vectors().encode([_offer(ad) for ad in ads])
        shares = _ramp(offers_ND @ offers_ND.T, self.settings.same_need_range)
        np.fill_diagonal(shares, 0.0)
        return shares

    def causes(self, context: Context, answer: Answer) -> dict[AdId, Cause]:
        """Return relevance, nativeness and click probability of every distinct shown ad."""
        by_id = {c.ad.id: c.ad for c in context.candidates}
        shown = [by_id[i] for i in answer.shown() if i in by_id]
        if not shown:
            return {}
        s = self.settings
        relevance = self.relevance(context, shown, [_said_before(answer, ad) for ad in shown])
        nativeness = self.nativeness(context, shown, [carrier(answer, ad) for ad in shown])
        attention = 1.0 / ((1.0 + s.place * np.arange(len(shown))) * (1.0 + s.load * (len(shown) - 1)))
        appeal = s.best * relevance * nativeness * attention
        if len(shown) > s.flood_after or len(answer.insertions) > len(shown):
            appeal = np.zeros(len(shown))
        probability = appeal / (1.0 + s.substitution * self.same_need(shown) @ appeal)
        return {
            ad.id: Cause(float(relevance[i]), float(nativeness[i]), float(probability[i])) for i, ad in enumerate(shown)
        }

    def probabilities(self, context: Context, answer: Answer) -> dict[AdId, float]:
        """Return ctr_i(x, h, a_i, y) of every distinct shown ad."""
        return {ad_id: cause.probability for ad_id, cause in self.causes(context, answer).items()}

    def click(self, probabilities: Mapping[AdId, float], rng: np.random.Generator) -> dict[AdId, bool]:
        """Draw independent clicks from the given probabilities."""
        return {ad_id: bool(rng.random() < p) for ad_id, p in probabilities.items()}


def _offer(ad: Ad) -> str:
    """Return what the ad offers: its text, or its title where it has none. A name alone attracts no clicks."""
    return ad.text or ad.title


def _said_before(answer: Answer, ad: Ad) -> str:
    """Return the answer's sentences before the one that carries the ad, titles of ads replaced by "it"."""
    first = next(i for i in answer.insertions if i.ad_id == ad.id)
    ends = [m.end() for m in SENTENCE_BREAK.finditer(answer.text) if m.end() <= first.start]
    return answer.struck(0, ends[-1]) if ends else ""


def _ramp(cosines: NDArray[np.floating], limits: tuple[float, float]) -> Floats:
    low, high = limits
    return np.minimum(np.maximum((cosines.astype(np.float64) - low) / (high - low), 0.0), 1.0)
