"""Priorities: sponsorships are offered first, house ads where no paid ad can be, and house ads are never charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serving.auction.separation import Contender, separate
from serving.campaigns.types import Priority

Start = Callable[..., Any]
Until = Callable[..., None]


def book(router: Any, name: str, key: str | None = None, **changes: Any) -> Any:
    """Book and approve the campaign of one creative, both of the id `name`; by default for the advertiser Own."""
    creative = {"id": name, "title": f"Own {name}", "text": "running shoes", "landing_url": "https://own.example/"}
    body = {"id": name, "name": name, "bid_micros": 10_000, "currency": "EUR", "state": "active", "category": "shoes"}
    body |= {"creatives": [creative]} | ({"advertiser_id": "Own"} if key is None else {}) | changes
    booked = router.call("POST", "/v1/campaigns", key, json=body)
    if booked.status_code == 201:
        router.call("POST", f"/v1/creatives/{name}/review", json={"review": "approved"})
    return booked


def known(router: Any, wait_until: Until, *ids: str) -> None:
    """Wait until a router has the campaigns with their reviews."""
    index = router.router.marketplace.index
    wait_until(lambda: all((found := index.get(id_)) and found.version > 1 for id_ in ids))


def auction(router: Any, **ads: Any) -> dict[str, Any]:
    answer = router.ask(ads=ads)
    path = "/v1/auctions/" + answer["auction"]["auction_id"]
    record: dict[str, Any] = router.call("GET", path).json()
    return record


def candidates(record: dict[str, Any]) -> dict[str, str]:
    return {one["ad_id"]: one["priority"] for one in record["candidates"]}


def test_sponsorships_are_offered_before_standard_campaigns(start: Start, wait_until: Until) -> None:
    router = start("Try {*}.", candidates=2)
    for name, priority in (("weak", "sponsorship"), ("plain", "standard")):
        book(router, name, priority=priority, creatives=[kite(name)])
    known(router, wait_until, "weak", "plain")
    # Both fit the question less than any of the catalogue's ads, and bid less.
    assert candidates(auction(router)) == {"A1": "standard", "weak": "sponsorship"}
    router.call("POST", "/v1/campaigns/weak/pause")
    wait_until(lambda: "weak" not in candidates(auction(router)))
    assert len(candidates(auction(router))) == 2


def kite(name: str) -> dict[str, str]:
    return {"id": name, "title": f"Kite {name}", "text": "windy", "landing_url": "https://kite.example/"}


def test_of_two_competitors_the_sponsorship_stays() -> None:
    rich = Contender("A1", "C1", "u", "cola", 0.9, 1_000_000, Priority.STANDARD.rank)
    sponsor = Contender("A2", "C2", "v", "cola", 0.1, 1, Priority.SPONSORSHIP.rank)
    assert separate([rich, sponsor])[0] == (sponsor,)


def test_a_house_ad_is_offered_where_no_paid_ad_can_be_and_costs_nothing(start: Start, wait_until: Until) -> None:
    router = start("Try {*}.", ads=1)
    book(router, "house-1", priority="house", bid_micros=900_000)
    known(router, wait_until, "house-1")
    assert candidates(auction(router)) == {"A1": "standard"}
    router.call("POST", "/v1/campaigns/catalogue-A1/pause")
    wait_until(lambda: "A1" not in candidates(auction(router)))
    record = auction(router, placement="tips")
    assert candidates(record) == {"house-1": "house"}
    assert record["candidates"][0]["shown_bid_micros"] > 0  # the policy sees what showing it is worth
    (ad,) = router.ask(ads={"placement": "tips"})["ads"]
    assert router.click(ad["click_url"]).headers["location"] == "https://own.example/"
    router.wait_until_charged()
    assert router.revenue() == {}
    (event,) = router.call("GET", "/v1/reports/events?currency=EUR&placement=tips&creative_id=house-1").json()["items"]
    assert (event["price_micros"], event["charged_micros"], event["invalid"]) == (0, 0, "")
    for event in router.logged("interactions"):
        assert all(one.price_micros == 0 for one in event.shown if one.ad_id == "house-1")
    (line,) = router.call("GET", "/v1/reports?group_by=placement&campaign=house-1").json()["lines"][-1:]
    assert (line["house_impressions"], line["house_clicks"]) == (line["impressions"], line["clicks"]) == (2, 1)
    marked = router.call("GET", "/v1/reports?group_by=campaign_id").json()["lines"]
    assert {one["campaign_id"]: one["priority"] for one in marked} == {"catalogue-A1": "standard", "house-1": "house"}
    assert [one["house_impressions"] > 0 for one in marked] == [False, True]


def test_floors_hold_for_paid_campaigns_alone(start: Start, wait_until: Until) -> None:
    router = start("Try {*}.", ads=2)
    book(router, "house-1", priority="house", bid_micros=0)
    known(router, wait_until, "house-1")
    record = auction(router, floor_micros=950_000)
    assert candidates(record) == {"house-1": "house"}
    assert record["excluded"] == {"bid_below_floor": 2}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"daily_budget_micros": 5}, "daily_budget_micros"),
        ({"total_budget_micros": 5}, "total_budget_micros"),
        ({"pricing": "impression"}, "pricing"),
    ],
)
def test_a_house_ad_has_nothing_to_pay_with(shared: Any, changes: dict[str, Any], field: str) -> None:
    refused = book(shared, "bad-house", priority="house", **changes)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


def test_an_administrator_alone_sets_a_priority_once(shared: Any) -> None:
    own = shared.key("advertiser", "Own")
    for priority in ("house", "sponsorship"):
        refused = book(shared, "mine", own, priority=priority)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "priority")
    rows = b'{"name": "n", "bid_micros": 1, "currency": "EUR", "priority": "sponsorship"}'
    headers = {"Content-Type": "application/jsonl"}
    batch = shared.call("POST", "/v1/campaigns:batch", own, content=rows, headers=headers)
    assert [one["column"] for one in batch.json()["error"]["rows"]] == ["priority"]
    sponsored = book(shared, "sponsored", priority="sponsorship", category="kites")
    assert sponsored.json()["priority"] == "sponsorship"
    path = "/v1/campaigns/sponsored"
    changed = shared.call("PATCH", path, own, json={"version": 2, "bid_micros": 7})
    assert (changed.status_code, changed.json()["priority"]) == (200, "sponsorship")
    for key, status in ((own, 403), (None, 400)):
        refused = shared.call("PATCH", path, key, json={"version": 3, "priority": "standard"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, "priority")
