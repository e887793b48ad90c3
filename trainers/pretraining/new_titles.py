"""Whether a policy shows ads whose titles are new to it: a relevant ad under its own and under an invented title.

The tiny model once memorised its ads, so that no advertiser could book another; this measures that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.policy import Policy
from mechanism.statistics import Interval, ratio_interval
from mechanism.types import Context
from simulator.brands import HELD_OUT_WORDS, renamed
from simulator.clicks import ClickModel

LEAST = 0.8
"""Least frequency of an ad under a new title, as a share of its frequency under the known one."""


@dataclass(frozen=True, slots=True)
class NewTitles:
    """Shares of answers that show the relevant ad under its known and its new title.

    `ratio` is new over known, None where even the known title is never shown.
    """

    offers: int
    answers: int
    known: float
    new: float
    ratio: Interval | None

    @property
    def holds(self) -> bool:
        """Whether the new title is shown often enough, compared with the known one."""
        return self.ratio is not None and self.ratio.mean >= LEAST

    def to_dict(self) -> dict[str, object]:
        """As a property of the report."""
        interval = self.ratio.to_dict() if self.ratio else {"mean": None, "lo": None, "hi": None}
        return {
            **interval,
            "holds": self.holds,
            "offers": self.offers,
            "answers": self.answers,
            "known": self.known,
            "new": self.new,
            "least": LEAST,
        }


def shown_under_new_titles(
    policy: Policy, contexts: Sequence[Context], truth: ClickModel, seed: int, answers: int = 4
) -> NewTitles:
    """Sample `answers` to each context twice: unchanged, and with its most relevant ad under an invented title and id.

    These are made of words that no training text holds; the ad's text and bid and all other ads stay.
    """
    rng = np.random.default_rng([seed, 23])
    fitting = [int(np.argmax(truth.relevance(context, [c.ad for c in context.candidates]))) for context in contexts]
    changed = [
        renamed(c, rng, words=HELD_OUT_WORDS, only=frozenset({c.candidates[k].ad.id}))
        for c, k in zip(contexts, fitting, strict=True)
    ]
    known, new = (
        np.array(
            [
                np.mean([c.candidates[k].ad.id in g.answer.shown() for g in own])
                for c, k, own in zip(asked, fitting, policy.generate(asked, answers, seed), strict=True)
            ]
        )
        for asked in (contexts, changed)
    )
    ratio = ratio_interval(new, known, seed) if known.mean() > 0 else None
    return NewTitles(len(contexts), answers, float(known.mean()), float(new.mean()), ratio)
