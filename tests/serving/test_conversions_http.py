"""Conversions over HTTP: from the macros of a landing address to the report and the event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qs, urlsplit

import pytest

from serving.campaigns.macros import landing_fault
from serving.campaigns.types import ReviewState
from tests.serving.database.samples import campaign, creative

Start = Callable[..., Any]
LANDING = "https://brand.example/buy?c={click_id}&of={campaign_id}#{creative_id}"


@pytest.fixture
def clicked(start: Start, wait_until: Callable[..., None]) -> tuple[Any, str]:
    """A router, and the address to which a click on the ad T1 of advertiser a1 led."""
    router = start("Try {T1}.", ads=0)
    own = campaign(1, creatives=(creative("T1", title="Running Shoes", landing_url=LANDING),))
    router.router.campaigns.create(own, datetime.now(UTC))
    router.router.campaigns.review("T1", ReviewState.APPROVED, datetime.now(UTC))
    wait_until(lambda: router.router.marketplace.index.get("c1") is not None)
    (ad,) = router.ask()["ads"]
    response = router.click(ad["click_url"], follow_redirects=False)
    router.wait_until_charged()
    return router, response.headers["location"]


def report(router: Any, *conversions: dict[str, Any], advertiser: str = "a1") -> Any:
    key = router.key("advertiser", advertiser)
    return router.call("POST", "/v1/conversions", key, json={"conversions": conversions})


def test_a_conversion_comes_back_to_its_campaign(clicked: tuple[Any, str]) -> None:
    router, location = clicked
    asked = parse_qs(urlsplit(location).query)
    assert (asked["of"], urlsplit(location).fragment) == (["c1"], "T1")
    sale = {"click_id": asked["c"][0], "type": "purchase", "id": "7", "value_micros": 5_000_000, "currency": "EUR"}
    assert report(router, sale).json() == {"accepted": 1, "repeated": 0, "errors": []}
    assert report(router, sale).json() == {"accepted": 0, "repeated": 1, "errors": []}
    key = router.key("advertiser", "a1")
    (line,) = router.call("GET", "/v1/reports?group_by=creative_id", key).json()["lines"]
    assert (line["creative_id"], line["conversions"], line["conversion_value_micros"]) == ("T1", 1, 5_000_000)
    first, second = router.logged("conversions")
    assert first == second  # each copy has the same id, by which consumers recognise it
    assert (first.click_id, first.type, first.value_micros) == (sale["click_id"], "purchase", 5_000_000)


def test_a_retry_logs_a_conversion_whose_router_was_killed_before_it_did(
    clicked: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    router, location = clicked
    click_id = parse_qs(urlsplit(location).query)["c"][0]
    sale = {"click_id": click_id, "type": "purchase", "id": "7", "value_micros": 5_000_000, "currency": "EUR"}
    with monkeypatch.context() as patch:
        patch.setattr(router.router.events, "put_durably", Mock(side_effect=RuntimeError("killed")))
        assert report(router, sale).status_code == 500
    assert router.logged("conversions") == []
    assert report(router, sale).json() == {"accepted": 0, "repeated": 1, "errors": []}
    (event,) = router.logged("conversions")
    assert (event.click_id, event.value_micros) == (click_id, 5_000_000)
    assert report(router, sale | {"value_micros": 6_000_000}).json()["repeated"] == 1
    assert [one.value_micros for one in router.logged("conversions")] == [5_000_000]


def test_a_bad_conversion_of_a_thousand_names_itself(clicked: tuple[Any, str]) -> None:
    router, location = clicked
    click_id = parse_qs(urlsplit(location).query)["c"][0]
    batch = [{"click_id": click_id, "type": "view", "id": str(number)} for number in range(1_000)]
    batch[517] = {"click_id": click_id, "type": "view", "value_micros": -1}
    batch[900] = {"click_id": "another:T1", "type": "view"}
    answer = report(router, *batch).json()
    assert (answer["accepted"], answer["repeated"]) == (998, 0)
    fields = [(error["index"], error["field"]) for error in answer["errors"]]
    assert fields == [(517, "conversions[517].value_micros"), (900, "conversions[900].click_id")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "A sale"}, "conversions[0].type"),
        ({"occurred_at": "2026-11-24T12:00:00"}, "conversions[0].occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "conversions[0].occurred_at"),
        ({"surplus": 1}, "conversions[0].surplus"),
        ({"click_id": ""}, "conversions[0].click_id"),
    ],
)
def test_a_batch_of_bad_conversions_is_refused(start: Start, change: dict[str, Any], field: str) -> None:
    router = start("Hello.")
    response = report(router, {"click_id": "x:A1", "type": "sale"} | change)
    assert response.status_code == 400
    assert response.json()["error"]["fields"][0]["field"] == field


def test_conversions_need_an_advertisers_key(clicked: tuple[Any, str]) -> None:
    router, location = clicked
    sale = {"click_id": parse_qs(urlsplit(location).query)["c"][0], "type": "purchase"}
    assert router.call("POST", "/v1/conversions", "", json={"conversions": [sale]}).status_code == 401
    assert (
        router.call("POST", "/v1/conversions", router.key("publisher"), json={"conversions": [sale]}).status_code == 403
    )
    assert report(router, sale, advertiser="a2").status_code == 400
    assert report(router).status_code == 400


@pytest.mark.parametrize(
    ("url", "right"),
    [
        (LANDING, True),
        ("https://brand.example/{creative_id}/?x={click_id}", True),
        ("https://brand.example/?x={clickid}", False),
        ("https://brand.example/?x={", False),
        ("https://{campaign_id}.example/", False),
        ("https://{campaign_id}.example/?next=0.example", False),
        ("https://[::{click_id}]/", False),
        ("https://brand.example?x={click_id}", True),
        ("{click_id}", False),
    ],
)
def test_macros_are_checked_when_a_campaign_is_booked(url: str, right: bool) -> None:
    assert (landing_fault(url) is None) == right
