"""The scale of bids: monotone, its top at 100 points, and no bid beyond it is booked or charged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from mechanism.prompt import PromptSettings, shown_points
from serving.bid_scale import DEFAULT_UNITS, BidScale, parse_amounts
from tests.serving.database.samples import campaign, creative

CURRENCIES = st.sampled_from(sorted(DEFAULT_UNITS))
MARKETS = st.builds(
    BidScale, st.dictionaries(st.sampled_from(["USD", "JPY", "XTS"]), st.integers(100, 10**12), max_size=3)
)


@given(MARKETS, CURRENCIES, st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_higher_bid_is_never_shown_lower(scale: BidScale, currency: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert scale.shown(low, currency) <= scale.shown(high, currency)
    assert scale.effective(low, currency) <= scale.effective(high, currency)


@given(MARKETS, CURRENCIES)
def test_the_highest_bid_is_a_hundred_points(scale: BidScale, currency: str) -> None:
    top = scale.highest_in(currency)
    assert top is not None
    points = [shown_points(scale.shown(top * share // 100, currency), PromptSettings()) for share in (0, 1, 50, 100)]
    assert points[0] == 0
    assert points[2:] == [50, 100] or top < 10_000  # below a hundredth of a unit, halves are not whole micros
    assert scale.effective(10**12, currency) == top


def test_one_yen_is_one_point() -> None:
    assert shown_points(BidScale().shown(1_000_000, "JPY"), PromptSettings()) == 1
    assert BidScale().shown(330_000, "USD") == 330_000  # the scale that `make run` and its models have


def test_highest_bids_are_read_exactly() -> None:
    assert parse_amounts(["USD=2.50", "JPY=300", "EUR=.000123"], "--highest-bid") == {
        "USD": 2_500_000,
        "JPY": 300_000_000,
        "EUR": 123,
    }
    for text in ("USD", "usd=1", "USD=-1", "USD=1.0000001", "USD=1e3", "DOLLAR=1", "USD="):
        with pytest.raises(ConfigError, match="highest-bid"):
            parse_amounts([text], "--highest-bid")
    with pytest.raises(ConfigError, match="highest bid in USD"):
        BidScale({"USD": 99})


def book(router: Any, **fields: Any) -> Any:
    body = {"advertiser_id": "Falcon", "name": "Spring", "bid_micros": 450_000, "currency": "EUR"} | fields
    return router.call("POST", "/v1/campaigns", json=body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bid_micros": 1_000_001}, "bid_micros"),
        (
            {"bid_micros": 450_000, "adjustments": [{"dimension": "country", "value": "DE", "thousandths": 3_000}]},
            "adj",
        ),
        ({"currency": "XTS"}, "currency"),
    ],
)
def test_a_bid_beyond_the_scale_is_refused_with_the_remedy(
    start: Callable[..., Any], fields: dict[str, Any], param: str
) -> None:
    response = book(start(), **fields)
    assert response.status_code == 400
    (fault,) = response.json()["error"]["fields"]
    assert fault["field"].startswith(param)
    assert "1000000" in fault["remedy"] or "--highest-bid XTS=" in fault["remedy"]


def test_a_market_with_a_higher_scale_takes_higher_bids(start: Callable[..., Any]) -> None:
    router = start("Try {A2}.", bid_scale=BidScale({"EUR": 10_000_000}))
    assert book(router, bid_micros=10_000_000).status_code == 201
    auction = router.ask()["auction"]["auction_id"]
    record = router.call("GET", f"/v1/auctions/{auction}").json()
    shown = {c["ad_id"]: (c["bid_micros"], c["shown_bid_micros"]) for c in record["candidates"]}
    assert shown["A2"] == (200_000, 20_000)  # 0.20 of 10.00 is 2 points
    assert router.policy.contexts[0].bids()["A2"] == 20_000
    (event,) = router.logged("interactions")
    assert event.bids()["A2"] == 20_000


def test_a_bid_booked_under_another_scale_is_charged_at_most_the_highest(
    start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    router = start("Try {rich-1}.")
    now = datetime.now(UTC)
    old = campaign(7, bid_micros=40_000_000, creatives=(creative("rich-1", title="Rich Running Shoes"),))
    router.router.campaigns.create(old, now)
    router.call("POST", "/v1/creatives/rich-1/review", json={"review": "approved"})
    wait_until(lambda: router.router.marketplace.index.get("c7") is not None)
    wait_until(lambda: router.ask()["ads"] != [])
    router.click(router.ask()["ads"][0]["click_url"])
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 1_000_000}
