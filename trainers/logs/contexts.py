"""Contexts of a run on logs: what users asked and which ads stood for choice, under bids as made or drawn afresh.

Afresh means from all bids of the log, of whatever order of magnitude they are: the policy has to learn what a bid
means, and a log in which every campaign always bids the same does not tell it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mechanism.types import Context
from trainers.logs.answers import LoggedAnswer


class LoggedContexts:
    """Draws the contexts of a run from its snapshot, deterministic by seed, epoch and purpose. Training contexts are
    of answers that may be fitted to, validation contexts of those that are held out."""

    def __init__(self, answers: Sequence[LoggedAnswer], seed: int, validation: int, *, fresh_bids: bool) -> None:
        self.seed = seed
        self.fresh_bids = fresh_bids
        self._training = [a.as_bid for a in answers if not a.held_out]
        self._held_out = [a.as_bid for a in answers if a.held_out]
        self._bids = np.array([c.bid for a in answers for c in a.as_bid.candidates], np.int64)
        order = np.random.default_rng([seed, 8]).permutation(len(self._held_out))
        self._validation = [self._held_out[i] for i in order[:validation]]

    def training(self, count: int, epoch: int, purpose: int) -> list[Context]:
        """`count` contexts, every one once before any comes twice. As they were bid, none comes twice, and there may
        be fewer."""
        rng = np.random.default_rng([self.seed, epoch, purpose])
        if not self.fresh_bids:
            return [self._training[i] for i in rng.permutation(len(self._training))[:count]]
        chosen: list[Context] = []
        while len(chosen) < count and self._training:
            chosen += [self._training[i] for i in rng.permutation(len(self._training))]
        return [self.redraw(c, rng) for c in chosen[:count]]

    def validation(self) -> list[Context]:
        """The same contexts every time, as they were bid."""
        return self._validation

    def redraw(self, context: Context, rng: np.random.Generator) -> Context:
        """The same context under bids drawn from all bids of the log."""
        drawn = rng.choice(self._bids, size=len(context.candidates))
        return context.with_bids({c.ad.id: int(b) for c, b in zip(context.candidates, drawn, strict=True)})
