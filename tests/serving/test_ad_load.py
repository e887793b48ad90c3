"""The ad-load controller holds its target while simulated readers or the policy change."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.auction.ad_load import AdLoadState, next_load
from serving.settings import AdLoadSettings

TEN_MINUTES = 600.0
Response = Callable[[float], float]


def run(
    response: Response, settings: AdLoadSettings, hours: float, state: AdLoadState | None = None
) -> list[AdLoadState]:
    noise, states = random.Random(1), [state or AdLoadState()]
    for _ in range(int(hours * 6)):
        measured = response(states[-1].load) + noise.gauss(0, 0.03)
        states.append(next_load(states[-1], measured, 400, TEN_MINUTES, settings))
    return states


def ads_per_answer(strength: float) -> Response:
    """More ads under a higher load, at most two per answer."""
    return lambda load: 2 * (1 - math.exp(-strength * load))


def quality(load: float) -> float:
    return 0.95 - 0.2 * load


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.5])
def test_ads_per_answer_reach_the_target_and_stay_there(strength: float) -> None:
    states = run(ads_per_answer(strength), AdLoadSettings(target=0.8), hours=24)
    late = [ads_per_answer(strength)(s.load) for s in states[-36:]]
    assert all(abs(x - 0.8) < 0.1 for x in late)


def test_the_controller_adapts_to_a_changed_response() -> None:
    """A new policy that shows twice as many ads at the same bids."""
    settings = AdLoadSettings(target=0.8)
    before = run(ads_per_answer(0.5), settings, hours=24)
    after = run(ads_per_answer(1.0), settings, hours=24, state=before[-1])
    assert ads_per_answer(1.0)(before[-1].load) > 1.2
    assert abs(ads_per_answer(1.0)(after[-1].load) - 0.8) < 0.1


def test_a_signal_that_falls_with_load_is_held_too() -> None:
    states = run(quality, AdLoadSettings(target=0.8, direction="falls"), hours=24)
    assert abs(quality(states[-1].load) - 0.8) < 0.03


def test_a_target_out_of_reach_does_not_wind_up() -> None:
    """After two days at the upper bound, the controller leaves it as soon as the target is within reach."""
    settings = AdLoadSettings(target=1.5)
    stuck = run(lambda load: 0.2, settings, hours=48)
    assert stuck[-1].load == settings.highest
    free = run(ads_per_answer(1.0), settings, hours=12, state=stuck[-1])
    assert free[6].load < settings.highest  # within the hour
    # Two days of integrated error would take longer to unwind.
    assert abs(ads_per_answer(1.0)(free[-1].load) - 1.5) < 0.15


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1, 100_000), st.integers(0, 200)), max_size=40),
    st.sampled_from(["rises", "falls"]),
)
def test_bounds_and_speed_hold_for_any_measurements(
    measurements: list[tuple[float, float, int]], direction: Any
) -> None:
    settings = AdLoadSettings(target=0.5, direction=direction)
    state = AdLoadState()
    for measured, elapsed, answers in measurements:
        following = next_load(state, measured, answers, elapsed, settings)
        assert settings.lowest <= following.load <= settings.highest
        assert abs(following.log_load - state.log_load) <= settings.fastest_per_hour * elapsed / 3_600 + 1e-9
        if answers < settings.least_answers:
            assert following == state
        state = following


def test_the_factor_rarely_changes_at_the_target() -> None:
    settings = AdLoadSettings(target=0.8)
    states = run(ads_per_answer(0.5), settings, hours=24)
    loads = [s.load for s in states[-72:]]
    changes = sum(a != b for a, b in pairwise(loads))
    assert changes <= 24  # of 71: most prompts keep the prefix that a model server has cached
    assert all(abs(x / settings.step - round(x / settings.step)) < 1e-6 for x in loads)


def test_invalid_measurements_and_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match="measured"):
        next_load(AdLoadState(), math.nan, 100, 60, AdLoadSettings(target=1))
    with pytest.raises(ConfigError, match="elapsed_s"):
        next_load(AdLoadState(), 1, 100, 0, AdLoadSettings(target=1))
    for bad in (
        {"target": 0},
        {"target": 1, "lowest": 2},
        {"target": 1, "gain": math.inf},
        {"target": 1, "direction": "x"},
    ):
        with pytest.raises(ConfigError, match="ad_load"):
            AdLoadSettings(**bad)
