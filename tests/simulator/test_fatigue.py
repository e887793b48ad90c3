"""Slow variables: fatigue grows with exposure and fades with time; trust follows the answers seen."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.types import Ad
from simulator.fatigue import FatigueSettings, UserState

ADS = [Ad(f"A{i}", f"Title {i}", "text", f"advertiser {i // 2}") for i in range(6)]
DAY = 86_400.0
unit = st.floats(0, 1)


@st.composite
def visits(draw: st.DrawFn) -> UserState:
    """A user after any number of answers."""
    state = UserState(trust=draw(unit))
    for _ in range(draw(st.integers(0, 6))):
        shown = draw(st.lists(st.sampled_from(ADS), max_size=5))
        clicked = [ad.id for ad in shown if draw(st.booleans())]
        later = state.at + draw(st.floats(0, 5 * DAY))
        state = state.after(shown, clicked, draw(unit), len(shown) + draw(st.integers(0, 2)), later)
    return state


@given(state=visits(), ad=st.sampled_from(ADS), wait=st.floats(0, 100 * DAY))
def test_factors_and_probabilities_stay_in_the_unit_interval(state: UserState, ad: Ad, wait: float) -> None:
    assert 0.0 <= state.click_factor(ad.id, state.at + wait, ad.advertiser) <= 1.0
    assert 0.0 <= state.return_probability <= 1.0
    assert 0.0 <= state.trust <= 1.0


@given(state=visits(), ad=st.sampled_from(ADS), wait=st.floats(0, DAY), clicked=st.booleans())
def test_a_further_exposure_lowers_the_clicks_on_the_ad_and_on_its_advertiser(
    state: UserState, ad: Ad, wait: float, clicked: bool
) -> None:
    now = state.at + wait
    without = state.after([], [], 0.5, 1, now)
    exposed = state.after([ad], [ad.id] if clicked else [], 0.5, 1, now)
    assert exposed.click_factor(ad.id, now) < without.click_factor(ad.id, now, ad.advertiser)
    sister = next(other for other in ADS if other.advertiser == ad.advertiser and other.id != ad.id)
    of_sister = (s.click_factor(sister.id, now, sister.advertiser) for s in (exposed, without))
    assert next(of_sister) < next(of_sister)
    stranger = next(other for other in ADS if other.advertiser != ad.advertiser)
    of_stranger = [s.click_factor(stranger.id, now, stranger.advertiser) for s in (exposed, without)]
    assert of_stranger[0] == pytest.approx(of_stranger[1])


@given(state=visits(), ad=st.sampled_from(ADS), waits=st.lists(st.floats(0, 50 * DAY), min_size=2, max_size=5))
def test_fatigue_only_fades_while_the_user_is_away(state: UserState, ad: Ad, waits: list[float]) -> None:
    factors = [state.click_factor(ad.id, state.at + w, ad.advertiser) for w in sorted(waits)]
    assert factors == sorted(factors)
    fresh = UserState(trust=state.trust).click_factor(ad.id, 0.0)
    assert state.click_factor(ad.id, state.at + 100 * DAY, ad.advertiser) == pytest.approx(fresh, rel=1e-6)


def test_half_of_the_fatigue_is_gone_after_the_half_life() -> None:
    """One impression costs 2^-(1/3 + 1/8) at full trust; one half-life later the square root of that."""
    state = UserState(trust=1.0).after([ADS[0]], [], 1.0, 1, 0.0)
    at_once = state.click_factor("A0", 0.0)
    assert at_once == pytest.approx(2 ** -(1 / 3 + 1 / 8))
    assert state.click_factor("A0", DAY) == pytest.approx(at_once**0.5)


@given(state=visits(), worse=unit, better=unit, ads=st.integers(0, 6))
def test_trust_rises_with_relevance_and_falls_with_the_number_of_ads(
    state: UserState, worse: float, better: float, ads: int
) -> None:
    worse, better = sorted((worse, better))
    low, high = (state.after([], [], r, ads, state.at) for r in (worse, better))
    assert low.trust <= high.trust
    assert low.return_probability <= high.return_probability
    assert low.click_factor("A0", low.at) <= high.click_factor("A0", high.at)
    assert state.after([], [], better, ads + 1, state.at).trust <= high.trust


def test_good_answers_build_trust_slowly_and_bad_ones_or_floods_cost_it_quickly() -> None:
    state = UserState(trust=0.5)
    good = state.after(ADS[:1], [], 1.0, 1, 0.0)
    irrelevant = state.after(ADS[:1], [], 0.0, 1, 0.0)
    flooded = state.after(ADS[:5], [], 1.0, 5, 0.0)
    assert good.trust > 0.5
    assert 0.5 - irrelevant.trust > good.trust - 0.5
    assert flooded.trust < 0.5
    for _ in range(200):
        good = good.after([], [], 1.0, 0, 0.0)
        irrelevant = irrelevant.after([], [], 0.0, 0, 0.0)
    s = FatigueSettings()
    assert good.return_probability == pytest.approx(s.return_ceiling)
    assert irrelevant.return_probability == pytest.approx(s.return_floor)


def test_a_state_is_a_value_that_forgets_what_has_faded() -> None:
    before = UserState()
    seen = before.after(ADS[:2], ["A0"], 0.5, 2, 0.0)
    assert before == UserState()
    assert pickle.loads(pickle.dumps(seen)) == seen
    assert seen.after([], [], 0.5, 0, 40 * DAY).ads == {}
    assert seen.after([], [], 0.5, 0, 40 * DAY).owners == {}


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("clicked", ([ADS[0]], ["A1"], 0.5, 1, 20.0)),
        ("relevance", ([], [], 1.5, 0, 20.0)),
        ("relevance", ([], [], float("nan"), 0, 20.0)),
        ("n_ads", (ADS[:2], [], 0.5, 1, 20.0)),
        ("now", ([], [], 0.5, 0, 9.0)),
        ("now", ([], [], 0.5, 0, float("nan"))),
    ],
)
def test_bad_input_is_refused_by_name(place: str, arguments: tuple[list[Ad], list[str], float, int, float]) -> None:
    with pytest.raises(InputError, match=f"^{place}:"):
        UserState(at=10.0).after(*arguments)


@pytest.mark.parametrize(
    "bad",
    [{"half_life": 0.0}, {"gain": 1.5}, {"overload": -1.0}, {"return_floor": 0.99}, {"click_floor": float("nan")}],
)
def test_bad_settings_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        FatigueSettings(**bad)  # type: ignore[arg-type]  # one field of many, each a number
