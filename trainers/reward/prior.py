"""Predicted click rates before an answer exists, for auctions that choose ads first."""

from __future__ import annotations

from collections.abc import Sequence

from mechanism.markers import parse, render_marker
from mechanism.types import AdId, Answer, Context
from trainers.reward.model import ClickPredictor


def prior_pctr(predictor: ClickPredictor, contexts: Sequence[Context]) -> list[dict[AdId, float]]:
    """Predict the pCTR of every candidate before an answer exists: alone in a plain sentence."""
    pairs: list[tuple[Context, Answer]] = []
    for context in contexts:
        ads = [c.ad for c in context.candidates]
        question = context.query.strip(" ?.!")
        pairs += [(context, parse(f"On {question}. One fitting offer is {render_marker(ad)}.", ads)) for ad in ads]
    predicted = iter(predictor.probabilities(pairs))
    return [{c.ad.id: next(predicted)[c.ad.id] for c in context.candidates} for context in contexts]
