"""Publishers over HTTP: their keys ask on their own placements, and their payouts are theirs alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

Start = Callable[..., Any]


def days() -> str:
    now = datetime.now(UTC)
    first, last = ((now + timedelta(days=offset)).date().isoformat() for offset in (-1, 1))
    return f"first_day={first}&last_day={last}"


@pytest.fixture
def market(start: Start) -> Any:
    """A router with the publishers news (70%) and blog (50%); `keys` are those of their sites."""
    router = start("Try {A2}.")
    router.keys = {}
    for name, share in (("news", 700), ("blog", 500)):
        made = router.call("POST", "/v1/publishers", json={"id": name, "share_thousandths": share})
        assert made.status_code == 201
        key = {"role": "publisher", "label": name, "publisher_id": name}
        router.keys[name] = router.call("POST", "/v1/keys", json=key).json()["secret"]
    return router


def ask(router: Any, key: str, **ads: Any) -> Any:
    body = {"model": "default", "messages": [{"role": "user", "content": "Good coffee beans?"}], "ads": ads}
    return router.call("POST", "/v1/chat/completions", key, json=body)


def test_a_click_pays_the_publisher_of_its_placement(market: Any) -> None:
    assert market.call("POST", "/v1/placements", market.keys["news"], json={"id": "news.app"}).status_code == 201
    for number, ads in enumerate(({}, {"placement": "news.app"}, {"placement": "News.App"})):
        (ad,) = ask(market, market.keys["news"], **ads).json()["ads"]
        market.click(ad["click_url"], headers={"User-Agent": f"Mozilla/5.0 (X11) Gecko/20100101 Firefox/14{number}.0"})
    market.wait_until_charged()
    lines = market.call("GET", f"/v1/payouts?{days()}", market.keys["news"]).json()["lines"]
    assert {line["placement"] for line in lines} == {"news", "news.app"}
    assert sum(line["publisher_micros"] for line in lines) == 3 * 140_000
    assert sum(line["platform_micros"] for line in lines) == 3 * 60_000
    assert market.call("GET", f"/v1/payouts?{days()}", market.keys["blog"]).json()["lines"] == []
    csv = market.call("GET", f"/v1/payouts?{days()}&format=csv").text.splitlines()
    assert csv[0].startswith('"publisher_id","placement","currency"')
    assert len(csv) == 3
    for topic in ("interactions", "clicks"):
        assert {event.publisher_id for event in market.logged(topic)} == {"news"}


def test_what_a_publisher_is_paid_for_a_click_is_hidden_from_its_advertiser(market: Any) -> None:
    answer = ask(market, market.keys["news"]).json()
    market.click(answer["ads"][0]["click_url"])
    market.wait_until_charged()
    path = f"/v1/reports/events?auction_id={answer['auction']['auction_id']}"
    shares = [
        market.call("GET", path, key).json()["items"][0]["publisher_micros"]
        for key in (market.admin, market.key("advertiser", answer["ads"][0]["advertiser"]))
    ]
    assert shares == [140_000, 0]


def test_a_publisher_cannot_use_another_s_placement(market: Any) -> None:
    for key in (market.keys["blog"], market.key("publisher"), ""):
        refused = ask(market, key, placement="news")
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "ads.placement")
        remedy = "register it for this key's publisher" if key == market.keys["blog"] else "send a key of the publisher"
        assert remedy in refused.json()["error"]["message"]
    assert ask(market, market.keys["blog"], placement="unregistered").status_code == 403
    assert ask(market, market.key("publisher"), placement="unregistered").status_code == 200
    assert ask(market, market.admin, placement="news").status_code == 200
    taken = market.call("POST", "/v1/placements", market.keys["blog"], json={"id": "news"})
    assert (taken.status_code, taken.json()["error"]["param"]) == (400, "id")
    other = {"id": "blog.x", "publisher_id": "blog"}
    assert market.call("POST", "/v1/placements", market.keys["news"], json=other).status_code == 403


def test_a_placement_registered_at_another_router_is_known_at_once(market: Any) -> None:
    market.router.publishers.register("news.new", "news", datetime.now(UTC))
    assert ask(market, market.keys["news"], placement="news.new").status_code == 200


def test_publishers_see_their_own_alone(market: Any) -> None:
    own = market.call("GET", "/v1/placements", market.keys["blog"]).json()["items"]
    assert [one["id"] for one in own] == ["blog"]
    assert len(market.call("GET", "/v1/placements").json()["items"]) == 2
    for path in (f"/v1/payouts?{days()}&publisher_id=news", "/v1/placements?publisher_id=news"):
        assert market.call("GET", path, market.keys["blog"]).status_code == 403
    assert market.call("GET", "/v1/publishers", market.keys["blog"]).status_code == 403
    assert market.call("GET", "/v1/placements", market.key("publisher")).status_code == 400
    assert market.call("GET", f"/v1/payouts?{days()}", market.key("advertiser", "Brand1")).status_code == 403


def test_a_rotated_key_keeps_its_publisher(market: Any) -> None:
    (key,) = (one for one in market.router.accounts.keys() if one.publisher_id == "news")  # noqa: SIM118
    new = market.call("POST", f"/v1/keys/{key.id}/rotate", json={"overlap_s": 0}).json()
    assert new["key"]["publisher_id"] == "news"


@pytest.mark.parametrize(
    "key",
    [
        {"role": "publisher", "publisher_id": "nobody"},
        {"role": "admin", "publisher_id": "news"},
    ],
)
def test_only_a_publisher_s_key_names_a_publisher(market: Any, key: dict[str, str]) -> None:
    refused = market.call("POST", "/v1/keys", json=key | {"label": "x"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "publisher_id")


def test_a_share_changes_for_later_charges(market: Any) -> None:
    changed = market.call("PATCH", "/v1/publishers/news", json={"share_thousandths": 10})
    assert changed.json()["share_thousandths"] == 10
    assert market.call("PATCH", "/v1/publishers/other", json={"share_thousandths": 10}).status_code == 400
