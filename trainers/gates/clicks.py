"""How well a click predictor predicts clicks that it was not fitted to: evidence about it, and about the log.

Clicks that do not depend on what was shown (shuffled, forged, joined to the wrong answers) cannot be predicted, neither
by the new predictor nor by the serving model's; so a poisoned log shows in its own held-out part, without the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from mechanism.statistics import Floats, Interval, percentile_interval
from mechanism.types import AdId
from trainers.reward.training import auc

DRAWS = 400


@dataclass(frozen=True, slots=True)
class PredictorFigures:
    """Quality on the newest held-out answers, which no earlier model was fitted to either, and on all held-out ones.

    `auc`: of the new predictor on the newest; `gain`: the difference to the serving model's predictor (None: there is
    none). `calibration`: clicks over the clicks that the new predictor expects. `overall`: AUC on all.
    """

    auc: Interval
    gain: Interval | None
    calibration: Interval
    overall: Interval
    shown: int
    clicks: int

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the figures as JSON values."""
        gain: dict[str, JsonValue] | None = dict(self.gain.to_dict()) if self.gain else None
        return {
            "auc": dict(self.auc.to_dict()),
            "gain": gain,
            "calibration": dict(self.calibration.to_dict()),
            "overall": dict(self.overall.to_dict()),
            "shown": self.shown,
            "clicks": self.clicks,
        }


@dataclass(frozen=True, slots=True)
class PredictedClicks:
    """N shown ads of held-out answers.

    Predictions of the new and of the serving model's predictor, clicks, the share of clicks that the log can hold, the
    answer's index, and whether the answer is among the newest.
    """

    new_N: Floats
    old_N: Floats | None
    clicks_N: NDArray[np.float32]
    seen_N: Floats
    owner_N: NDArray[np.int64]
    newest_N: NDArray[np.bool_]


def predicted_clicks(
    clicks: Sequence[Mapping[AdId, bool]],
    new: Sequence[Mapping[AdId, float]],
    old: Sequence[Mapping[AdId, float]] | None,
    seen: Sequence[float],
    newest: Sequence[bool],
) -> PredictedClicks:
    """Collect the shown ads from mappings by answer."""
    rows = [(n, ad) for n, own in enumerate(clicks) for ad in own]
    return PredictedClicks(
        np.array([new[n][ad] for n, ad in rows]),
        None if old is None else np.array([old[n][ad] for n, ad in rows]),
        np.array([clicks[n][ad] for n, ad in rows], np.float32),
        np.array([seen[n] for n, _ in rows]),
        np.array([n for n, _ in rows], np.int64),
        np.array([newest[n] for n, _ in rows], bool),
    )


def predictor_figures(rows: PredictedClicks, seed: int, level: float = 0.95) -> PredictorFigures | None:
    """Measure the predictions with bootstrap intervals over answers; None where the newest have no click or no miss."""
    use = rows.newest_N
    clicks = rows.clicks_N[use]
    if not len(clicks) or not 0 < clicks.sum() < len(clicks):
        return None
    new, old = rows.new_N[use], rows.old_N[use] if rows.old_N is not None else None
    expected = new * rows.seen_N[use]
    index = _resamples(rows.owner_N[use], seed)
    aucs = np.array([auc(new[i], clicks[i]) for i in index])
    gain = None
    if old is not None:
        gains = aucs - np.array([auc(old[i], clicks[i]) for i in index])
        gain = percentile_interval(auc(new, clicks) - auc(old, clicks), gains, level)
    ratio = float(clicks.sum() / max(expected.sum(), 1e-9))
    ratios = np.array([clicks[i].sum() / max(expected[i].sum(), 1e-9) for i in index])
    everything = np.array([auc(rows.new_N[i], rows.clicks_N[i]) for i in _resamples(rows.owner_N, seed + 1)])
    return PredictorFigures(
        percentile_interval(auc(new, clicks), aucs, level),
        gain,
        percentile_interval(ratio, ratios, level),
        percentile_interval(auc(rows.new_N, rows.clicks_N), everything, level),
        len(clicks),
        int(clicks.sum()),
    )


def _resamples(owner_N: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return the rows of DRAWS resamples of the answers."""
    rng = np.random.default_rng(seed)
    _, group = np.unique(owner_N, return_inverse=True)
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(counts), size=len(counts))
        sizes = counts[drawn]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found.append(order[np.repeat(starts[drawn], sizes) + within])
    return found
