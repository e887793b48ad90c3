"""When a retraining is due: enough new traffic first, then number, age, calibration or population; never in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.statistics import Interval
from trainers.config import DriftConfig, TriggerConfig
from trainers.retraining.observation import population_shift
from trainers.retraining.triggers import Observed, is_due

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
POLICY = TriggerConfig(
    new_interactions=5000,
    at_least=1000,
    max_age_hours=48.0,
    cooldown_hours=2.0,
    drift=DriftConfig(calibration=0.15, population=0.05),
)
CALM = Observed(new=2000, last_at=NOW - timedelta(hours=10), calibration=Interval(1.02, 0.95, 1.09), population=0.01)


def seen(**changes: Any) -> Observed:
    return Observed(**{name: changes.get(name, getattr(CALM, name)) for name in Observed.__slots__})


def test_calm_traffic_waits_and_says_for_what() -> None:
    decision = is_due(CALM, POLICY, NOW)
    assert not decision.due
    assert decision.trigger is None
    for part in ("2000 new", "3000 more interactions", "age at 2026-11-27 02:00", "clicks off by 15%", "queries moved"):
        assert part in decision.reason


@pytest.mark.parametrize(
    ("change", "trigger"),
    [
        ({"new": 5000}, "new interactions"),
        ({"last_at": NOW - timedelta(hours=48)}, "age"),
        ({"calibration": Interval(1.4, 1.2, 1.6)}, "calibration"),
        ({"calibration": Interval(0.7, 0.6, 0.8)}, "calibration"),
        ({"population": 0.06}, "population"),
    ],
)
def test_each_trigger_makes_it_due(change: dict[str, Any], trigger: str) -> None:
    decision = is_due(seen(**change), POLICY, NOW)
    assert decision.due
    assert decision.trigger == trigger
    assert decision.reason
    # none of them before there is enough to learn from, or within the cooldown
    few = is_due(seen(**change | {"new": 999}), POLICY, NOW)
    assert not few.due
    assert "waiting for 1 more" in few.reason
    early = is_due(seen(**change | {"last_at": NOW - timedelta(hours=1.9)}), POLICY, NOW)
    assert not early.due
    assert "cooldown until 2026-11-25 12:06" in early.reason


def test_a_deviation_that_chance_explains_is_no_drift() -> None:
    assert not is_due(seen(calibration=Interval(1.5, 0.9, 2.1)), POLICY, NOW).due


def test_what_is_not_watched_or_not_known_makes_nothing_due() -> None:
    blind = POLICY.model_copy(update={"max_age_hours": None, "drift": DriftConfig(calibration=None, population=None)})
    wild = seen(last_at=NOW - timedelta(days=99), calibration=Interval(3.0, 2.9, 3.1), population=2.0)
    assert not is_due(wild, blind, NOW).due
    assert not is_due(Observed(new=4999), POLICY, NOW).due
    assert is_due(Observed(new=5000), POLICY, NOW).due, "the first one"


@given(
    st.integers(0, 10_000),
    st.one_of(st.none(), st.floats(0, 500)),
    st.one_of(st.none(), st.floats(0.1, 3)),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_more_traffic_never_takes_a_due_retraining_back(
    new: int, hours: float | None, ratio: float | None, shift: float | None
) -> None:
    observed = Observed(
        new=new,
        last_at=NOW - timedelta(hours=hours) if hours is not None else None,
        calibration=Interval(ratio, ratio - 0.05, ratio + 0.05) if ratio is not None else None,
        population=shift,
    )
    more = Observed(
        new=new + 500, last_at=observed.last_at, calibration=observed.calibration, population=observed.population
    )
    decision = is_due(observed, POLICY, NOW)
    assert decision.due <= is_due(more, POLICY, NOW).due
    assert decision.due == (decision.trigger is not None)


def test_the_population_shift_is_free_of_chance_and_sees_a_moved_mean() -> None:
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(40):
        before, now = rng.normal(0, 1, (200, 16)), rng.normal(0, 1, (150, 16))
        shifts.append(population_shift(before.astype(np.float32), now.astype(np.float32)))
    assert np.mean(shifts) < 0.003
    moved = rng.normal(0, 1, (4000, 16)) + np.sqrt(0.5 * 16) * np.eye(16)[0]
    found = population_shift(rng.normal(0, 1, (4000, 16)).astype(np.float32), moved.astype(np.float32))
    assert found == pytest.approx(0.5, abs=0.05), "half of the variance"
    with pytest.raises(InputError, match="at least two questions"):
        population_shift(np.zeros((1, 4), np.float32), np.zeros((9, 4), np.float32))
    same = np.ones((5, 4), np.float32)
    assert population_shift(same, same) == 0.0
