"""What held-out clicks say of a click predictor, and of the log: a log of shuffled clicks cannot be predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainers.config import GateSettings
from trainers.gates.clicks import PredictedClicks, predicted_clicks, predictor_figures
from trainers.gates.decision import Figures, decide


def made_up(
    answers: int, seed: int, *, shuffled: bool = False, scale: float = 1.0, newest: float = 1.0
) -> PredictedClicks:
    """Two ads an answer; the new predictor knows the rates up to some noise, the old one a little less."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(1.5, 3.0, 2 * answers)
    clicks = (rng.random(2 * answers) < rates * scale).astype(np.float32)
    if shuffled:
        clicks = rng.permutation(clicks)
    return PredictedClicks(
        np.clip(rates + rng.normal(0, 0.05, len(rates)), 0.01, 0.99),
        np.clip(rates + rng.normal(0, 0.15, len(rates)), 0.01, 0.99),
        clicks,
        np.ones(len(rates)),
        np.repeat(np.arange(answers), 2),
        np.repeat(np.arange(answers) >= (1 - newest) * answers, 2),
    )


def verdict(rows: PredictedClicks) -> str:
    decision = decide(Figures(predictor=predictor_figures(rows, 0)), GateSettings())
    return next(g.verdict for g in decision.gates if g.name == "click_predictor")


def test_a_predictor_that_knows_passes_and_is_compared_with_the_serving_models() -> None:
    rows = made_up(500, 1)
    found = predictor_figures(rows, 0)
    assert found is not None
    assert found.auc.lo < found.auc.mean < found.auc.hi
    assert found.auc.hi - found.auc.lo < 0.12
    assert found.gain is not None
    assert found.gain.mean > 0
    assert found.calibration.lo < 1 < found.calibration.hi
    assert (found.shown, found.clicks) == (1000, int(rows.clicks_N.sum()))
    assert verdict(rows) == "passed"


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_clicks_are_told_from_the_log_alone(seed: int) -> None:
    assert verdict(made_up(500, seed, shuffled=True)) in ("failed", "refused")


def test_good_old_clicks_do_not_hide_poisoned_new_ones() -> None:
    old, new = made_up(900, 1, newest=0.0), made_up(300, 2, shuffled=True)
    names = ("new_N", "old_N", "clicks_N", "seen_N", "owner_N", "newest_N")
    new = replace(new, owner_N=new.owner_N + len(old.new_N))
    both = PredictedClicks(*(np.concatenate([getattr(old, name), getattr(new, name)]) for name in names))
    found = predictor_figures(both, 0)
    assert found is not None
    assert found.overall.lo > 0.55 > found.auc.lo
    assert verdict(both) in ("failed", "refused")


def test_clicks_that_come_twice_as_often_as_expected_fail() -> None:
    assert verdict(made_up(800, 3, scale=0.45)) == "failed"
    assert verdict(made_up(800, 3, scale=0.9)) == "passed"


def test_nothing_shown_or_clicked_is_no_figure_and_so_a_refusal() -> None:
    nothing = predicted_clicks([{}, {}], [{}, {}], None, [1.0, 1.0], [True, True])
    assert predictor_figures(nothing, 0) is None
    unclicked = predicted_clicks([{"a": False}] * 9, [{"a": 0.2}] * 9, None, [1.0] * 9, [True] * 9)
    assert predictor_figures(unclicked, 0) is None
    assert verdict(nothing) == "refused"


def test_young_answers_are_expected_to_be_clicked_less() -> None:
    rng = np.random.default_rng(0)
    seen = np.where(rng.random(4000) < 0.5, 0.25, 1.0)
    clicks = [{"a": bool(rng.random() < 0.4 * s)} for s in seen]
    rows = predicted_clicks(clicks, [{"a": 0.4}] * 4000, None, seen.tolist(), [True] * 4000)
    found = predictor_figures(rows, 0)
    assert found is not None
    assert found.gain is None
    assert found.calibration.mean == pytest.approx(1.0, abs=0.06)
