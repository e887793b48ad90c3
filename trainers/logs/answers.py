"""Logged answers: judged interactions of the lake, and how many of their clicks the log can hold by now.

Which answers are held out of fitting is decided by the auction's id alone, the same for every run over the same log.

Delays: an answer watched for e seconds shows only clicks with a delay of at most e, so a click is observed with
probability p * F(e), F being the distribution of the delays (Chapelle 2014, "Modeling delayed feedback in display
advertising"). In place of his exponential delays F is the product-limit estimate for right-truncated data (Lynden-Bell
1971; Woodroofe 1985): a delay is known only if it is not longer than its answer was watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mechanism.errors import InputError
from mechanism.statistics import Floats, finite_array
from mechanism.types import AdId, Context, Fault, Generation, Micros
from streaming.events import Sampling
from streaming.lake import Row, TrainingSet
from trainers.config import FeedbackConfig

HELD_OUT_PARTS = 10_000
"""Answers are held out by the ten-thousandth that their auction's id falls into."""
MIN_CLICKS = 20
"""With fewer clicks no distribution of delays is estimated: every click counts as seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAnswer:
    """One served answer.

    `context` has the bids that the policy saw, `bids` the advertisers' own; `clicked_after_s` maps each clicked ad to
    its delay after the answer in seconds; `watched_s` is for how long clicks could be joined so far. `digest` names
    the weights that wrote the answer; `generation` has no token ids, since no event holds them.
    """

    context: Context
    bids: Mapping[AdId, Micros]
    generation: Generation
    clicked_after_s: Mapping[AdId, float]
    watched_s: float
    answered_at: datetime
    digest: str
    sampling: Sampling
    held_out: bool

    @property
    def clicks(self) -> dict[AdId, bool]:
        """Clicks by shown ad."""
        return {ad: ad in self.clicked_after_s for ad in self.generation.answer.shown()}

    @property
    def as_bid(self) -> Context:
        """The context under the advertisers' own bids, which a policy has to learn to answer."""
        return self.context.with_bids(self.bids)


@dataclass(frozen=True, slots=True)
class Unusable:
    """Number of rows that give no training example, by reason.

    `unfinished`: the answer was cut, cancelled or failed; `without_ads`: there was no candidate and so no auction.
    """

    unfinished: int = 0
    without_ads: int = 0


def read_answers(
    lake: TrainingSet, since: datetime | None, until: datetime | None, held_out: float
) -> tuple[list[LoggedAnswer], Unusable]:
    """Read the usable answers from `since` to before `until`, oldest first, and count the unusable ones."""
    watermark = lake.watermark()
    answers: list[LoggedAnswer] = []
    unfinished = without_ads = 0
    for row in lake.rows(since, until):
        generation, context = row.interaction.generation(), row.interaction.context()
        if generation is None or context is None or row.interaction.outcome != "answered":
            unfinished += 1
        elif not context.candidates:
            without_ads += 1
        else:
            answers.append(_answer(row, context, generation, watermark, held_out))
    answers.sort(key=lambda a: (a.answered_at, a.context.id))
    return answers, Unusable(unfinished, without_ads)


def delay_distribution(answers: Iterable[LoggedAnswer]) -> DelayDistribution:
    """Estimate F from all clicks of the answers."""
    pairs = [(delay, a.watched_s) for a in answers for delay in a.clicked_after_s.values()]
    return estimate_delays([d for d, _ in pairs], [w for _, w in pairs])


def select(answers: Sequence[LoggedAnswer], config: FeedbackConfig) -> tuple[list[LoggedAnswer], Floats, int]:
    """Select the newest `config.contexts` answers that are old enough.

    Returns them, the share of their clicks that the log can hold by now (1 without `delay_correction`), and the number
    of answers that are too young.
    """
    seen = delay_distribution(answers).seen([a.watched_s for a in answers])
    if not config.delay_correction:
        return list(answers[-config.contexts :]), np.ones(min(len(answers), config.contexts)), 0
    old = [i for i, share in enumerate(seen) if share >= config.min_seen]
    kept = old[-config.contexts :]
    return [answers[i] for i in kept], np.asarray(seen[kept]), len(answers) - len(old)


def held_out_by(auction_id: str, share: float) -> bool:
    """Return whether an auction is held out of fitting: a fixed share of all ids is."""
    return crc32(auction_id.encode()) % HELD_OUT_PARTS < share * HELD_OUT_PARTS


def _answer(
    row: Row, context: Context, generation: Generation, watermark: datetime | None, held_out: float
) -> LoggedAnswer:
    event, judgement = row.interaction, row.judgement
    assert judgement is not None  # usable rows are judged
    answer = replace(generation.answer, faults=tuple(Fault(kind, 0) for kind in event.faults))
    until = (watermark or judgement.occurred_at).astimezone(UTC)
    watched = min(row.window_s, max(0.0, (until - event.occurred_at).total_seconds()))
    return LoggedAnswer(
        context=context,
        bids=event.bids(),
        generation=replace(generation, answer=answer),
        clicked_after_s=row.clicked_after_s,
        # A click proves that its moment was watched, even where the clocks of two machines disagree.
        watched_s=max([watched, *row.clicked_after_s.values()]),
        answered_at=event.occurred_at,
        digest=event.model_digest,
        sampling=event.sampling,
        held_out=held_out_by(event.auction_id, held_out),
    )


@dataclass(frozen=True, slots=True)
class DelayDistribution:
    """F at its jumps: delays in seconds and shares, both rising. Empty arrays: nothing is known, F is 1 everywhere.

    F(longest watch) is 1: the estimate knows no click that takes longer than any answer has been watched.
    """

    delays_K: Floats
    shares_K: Floats

    def seen(self, watched_s: ArrayLike) -> Floats:
        """Return F(e), the share of an answer's clicks seen after `watched_s` seconds, in the shape of `watched_s`."""
        watched = np.asarray(watched_s, dtype=np.float64)
        if not len(self.delays_K):
            return np.ones_like(watched)
        rank = np.searchsorted(self.delays_K, watched, side="right")
        return np.concatenate([[0.0], self.shares_K])[rank]


NO_DELAY = DelayDistribution(np.zeros(0), np.zeros(0))


def estimate_delays(delays_s: ArrayLike, watched_s: ArrayLike) -> DelayDistribution:
    """Estimate F from observed clicks: their delays and how long their answers were watched, both of shape (clicks,).

    F(t) is the product, over the observed delays s > t, of 1 - d(s) / R(s): d(s) clicks came at s, and R(s) counts
    those with delay <= s <= watch, the ones that could have come at s and been seen.

    Raises:
        InputError: if a delay is below 0 or longer than its watch, or the shapes differ.
    """
    if not np.size(delays_s):
        return NO_DELAY
    delays, watched = finite_array("delays", delays_s, 1), finite_array("watched", watched_s, 1)
    if delays.shape != watched.shape:
        raise InputError("watched", len(watched), f"give one for each of {len(delays)} delays")
    if (delays < 0).any() or (delays > watched).any():
        raise InputError("delays", float(delays.min()), "a delay lies between 0 and the time its answer was watched")
    if len(delays) < MIN_CLICKS:
        return NO_DELAY
    jumps, came = np.unique(delays, return_counts=True)
    begun = np.searchsorted(np.sort(delays), jumps, side="right")
    left = np.searchsorted(np.sort(watched), jumps, side="left")
    at_risk = begun - left
    kept = 1.0 - came / at_risk
    # From the longest delay down: F just below a jump is F at the jump times the share that the jump leaves.
    above = np.concatenate([np.cumprod(kept[::-1])[::-1][1:], [1.0]])
    return DelayDistribution(jumps, _without_early_zero(above, came))


def _without_early_zero(shares: Floats, came: NDArray[np.int64]) -> Floats:
    """Replace the zeros of the product below the lowest delay at which several clicks were at risk.

    There the empirical distribution of the delays stands in, scaled to meet the estimate: clicks did come at those
    delays, so their probability is not 0.
    """
    positive = np.flatnonzero(shares > 0)
    first = int(positive[0])
    if first == 0:
        return shares
    plain = np.cumsum(came) / came.sum()
    return np.concatenate([plain[:first] / plain[first] * shares[first], shares[first:]])
