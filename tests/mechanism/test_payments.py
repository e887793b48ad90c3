"""First-price payments: exact integer micros, never above the bid for a click."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.markers import parse, render_marker
from mechanism.payments import Probability, click_payments, impression_payments, participation_payments
from mechanism.types import Ad, Answer

ADS = tuple(Ad(f"a{i}", f"Title {i}", "", "x") for i in range(4))
bids = st.integers(0, 10**30)
probabilities = st.one_of(
    st.floats(0, 1),
    st.decimals(0, 1, allow_nan=False),
    st.fractions(0, 1, max_denominator=10**9),
    st.sampled_from([0, 1]),
)


def answer(*numbers: int) -> Answer:
    return parse(" ".join(render_marker(ADS[i]) for i in numbers), ADS)


def test_a_click_pays_the_bid_once() -> None:
    y = answer(0, 1, 0)
    prices = {"a0": 730_000, "a1": 20_000, "a2": 5}
    assert click_payments(y, prices, {"a0": True, "a1": False}) == {"a0": 730_000}
    assert click_payments(y, prices, {}) == {}
    assert click_payments(y, prices, {"a2": False}) == {}


def test_a_click_on_an_ad_that_was_not_shown_is_refused() -> None:
    with pytest.raises(InputError, match="click: 'a2'"):
        click_payments(answer(0), {"a0": 1, "a2": 5}, {"a2": True})


def test_an_impression_pays_the_expected_click_rounded_half_to_even() -> None:
    y = answer(0, 1, 1, 2)
    assert impression_payments(y, {"a0": 1, "a1": 3, "a2": 100, "a3": 7}, {"a0": 0.5, "a1": 0.5, "a2": 0.254}) == {
        "a0": 0,
        "a1": 2,
        "a2": 25,
    }


def test_every_bidder_pays_for_participation() -> None:
    assert participation_payments({"a0": 1000, "a1": 500}, {"a0": 0.25, "a1": 0, "zz": 0.3}) == {"a0": 250, "a1": 0}


@given(bids, probabilities)
def test_no_ad_pays_more_than_its_bid(bid: int, rate: Probability) -> None:
    y = answer(0)
    paid = (
        click_payments(y, {"a0": bid}, {"a0": True})["a0"],
        impression_payments(y, {"a0": bid}, {"a0": rate})["a0"],
        participation_payments({"a0": bid}, {"a0": rate})["a0"],
    )
    assert paid[0] == bid
    assert all(type(p) is int and 0 <= p <= bid for p in paid)
    assert paid[1] == paid[2]


@given(bids, probabilities)
def test_rounding_is_exact_for_bids_of_any_size(bid: int, rate: Probability) -> None:
    exact = bid * Fraction(rate)
    paid = impression_payments(answer(0), {"a0": bid}, {"a0": rate})["a0"]
    assert abs(paid - exact) <= Fraction(1, 2)
    if abs(paid - exact) == Fraction(1, 2):
        assert paid % 2 == 0


@given(bids, bids, probabilities)
def test_a_higher_bid_never_lowers_a_payment(one: int, other: int, rate: Probability) -> None:
    low, high = sorted((one, other))
    y = answer(0)
    assert (
        impression_payments(y, {"a0": low}, {"a0": rate})["a0"]
        <= impression_payments(y, {"a0": high}, {"a0": rate})["a0"]
    )
    assert (
        participation_payments({"a0": low}, {"a0": rate})["a0"]
        <= participation_payments({"a0": high}, {"a0": rate})["a0"]
    )


@given(st.floats(0, 1), st.floats(0, 1), bids)
def test_a_higher_probability_never_lowers_a_payment(one: float, other: float, bid: int) -> None:
    low, high = sorted((one, other))
    assert participation_payments({"a": bid}, {"a": low})["a"] <= participation_payments({"a": bid}, {"a": high})["a"]


def test_the_three_forms_agree_in_expectation() -> None:
    """With itctr = P(shown) * pctr, the sums over 1,000 auctions of one ad differ by rounding alone."""
    bid, pctr = 990_000, Fraction(1, 4)
    shown = [answer(0) if i % 2 else answer() for i in range(1000)]
    clicks = [bool(y.shown()) and i % 8 == 1 for i, y in enumerate(shown)]  # a quarter of the 500 impressions
    by_click = sum(sum(click_payments(y, {"a0": bid}, {"a0": c}).values()) for y, c in zip(shown, clicks, strict=True))
    by_impression = sum(sum(impression_payments(y, {"a0": bid}, {"a0": pctr}).values()) for y in shown)
    by_participation = sum(participation_payments({"a0": bid}, {"a0": Fraction(1, 2) * pctr})["a0"] for _ in shown)
    assert by_click == by_impression == by_participation == 125 * bid


def test_numpy_probabilities_are_accepted() -> None:
    assert participation_payments({"a": 8}, {"a": np.float32(0.5)}) == {"a": 4}  # type: ignore[dict-item]


@pytest.mark.parametrize("rate", [None, -0.1, 1.0000001, float("nan"), float("inf"), Decimal("NaN"), Fraction(3, 2)])
def test_a_missing_or_impossible_probability_is_refused(rate: Probability | None) -> None:
    rates = {} if rate is None else {"a0": rate}
    with pytest.raises(InputError, match="pctr of ad 'a0'"):
        impression_payments(answer(0), {"a0": 5}, rates)
    with pytest.raises(InputError, match="itctr of ad 'a0'"):
        participation_payments({"a0": 5}, rates)


@pytest.mark.parametrize("bid", [None, -1, 1.5, True, "5"])
def test_a_missing_or_bad_bid_is_refused(bid: object) -> None:
    prices = {} if bid is None else {"a0": bid}
    with pytest.raises(InputError, match="bid of ad 'a0'"):
        click_payments(answer(0), prices, {"a0": True})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bid of ad 'a0'"):
        impression_payments(answer(0), prices, {"a0": 0.5})  # type: ignore[arg-type]
