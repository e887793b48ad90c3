"""Clicks over real HTTP: the bid is charged once, and links lead to the campaign's landing page only."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.clicks.tokens import ClickClaims, TokenSigner
from serving.settings import derived

Start = Callable[..., Any]
DAY = 24 * 3600


def shown(router: Any, **body: Any) -> dict[str, Any]:
    ad: dict[str, Any] = router.ask(**body)["ads"][0]
    return ad


def events(router: Any, auction_id: str) -> list[dict[str, Any]]:
    router.wait_until_charged()
    found: list[dict[str, Any]] = router.call("GET", f"/v1/reports/events?auction_id={auction_id}").json()["items"]
    return found


def test_a_click_redirects_and_charges_the_bid_once(start: Start) -> None:
    router = start("Try {A2}. Really, {A2}.")
    answer = router.ask()
    first, second = answer["ads"]  # one ad linked twice is one billable click
    for url in (first["click_url"], first["click_url"], second["click_url"]):
        response = router.click(url)
        assert (response.status_code, response.headers["location"]) == (302, "https://brand2.example/shop?x=1")
        assert response.headers["cache-control"] == "no-store"
    (charge,) = events(router, answer["auction"]["auction_id"])
    assert charge["id"] == answer["auction"]["auction_id"] + ":A2"
    assert (charge["charged_micros"], charge["currency"], charge["advertiser_id"]) == (200_000, "EUR", "Brand2")
    assert charge["model_version"] == "0" * 16
    assert router.revenue() == {"EUR": 200_000}


def test_sixteen_clicks_at_once_are_one_charge(start: Start) -> None:
    router = start("Try {A3}.")
    url, gate = shown(router)["click_url"], threading.Barrier(16)
    time.sleep(1.1)  # as long as it takes to read the answer

    def click(_: int) -> int:
        gate.wait()
        return httpx.get(url, timeout=20, headers={"User-Agent": "Mozilla/5.0 Firefox/140.0"}).status_code

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(click, range(16))) == {302}
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 300_000}


def test_the_price_is_the_bid_of_that_auction(start: Start) -> None:
    """The token carries it: a later change of the bid or a restart of the server does not alter it."""
    router = start()
    claims = ClickClaims("01900000-0000-7000-8000-000000000001", "A1", 55_555, "EUR", int(time.time()) + 60)
    assert router.click(f"{router.url}/c/" + router.router.signer.sign(claims)).status_code == 302
    assert events(router, "01900000-0000-7000-8000-000000000001")[0]["charged_micros"] == 55_555


def test_forged_and_withdrawn_links_lead_nowhere(start: Start) -> None:
    router = start()
    soon = int(time.time()) + 60
    other = TokenSigner(derived(b"the secret of another router, long enough", "click tokens"))
    for token, status in (
        (router.router.signer.sign(ClickClaims("a", "withdrawn", 1, "EUR", soon)), 410),
        (other.sign(ClickClaims("a", "A1", 1, "EUR", soon)), 404),
        ("https%3A%2F%2Fevil.example", 404),
        ("x" * 3_000, 404),
    ):
        response = router.get("/c/" + token)
        assert response.status_code == status
        assert "location" not in response.headers
    assert router.get("/c/https://evil.example").status_code == 404
    router.wait_until_charged()
    assert router.revenue() == {}


def test_a_link_to_a_rejected_creative_does_not_redirect(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {A1}.")
    url = shown(router)["click_url"]
    assert router.call("POST", "/v1/creatives/A1/review", json={"review": "rejected"}).status_code == 200
    wait_until(lambda: router.click(url).status_code == 410)


def test_no_altered_token_redirects(start: Start) -> None:
    router = start()
    token = router.router.signer.sign(ClickClaims("a", "A1", 1, "EUR", int(time.time()) + 600))
    with httpx.Client(base_url=router.url) as client:

        @settings(max_examples=40)
        @given(st.integers(0, len(token) - 1), st.sampled_from("Aa0-_."))
        def altered(at: int, character: str) -> None:
            changed = token[:at] + character + token[at + 1 :]
            response = client.get("/c/" + changed)
            assert response.status_code == (302 if changed == token else 404)

        altered()


@pytest.mark.parametrize(
    ("options", "age_s", "reason"),
    [
        ({"headers": {"Sec-Purpose": "prefetch;prerender"}}, 2, "prefetch"),
        ({"headers": {"User-Agent": "Googlebot/2.1"}}, 2, "bot"),
        ({"method": "HEAD"}, 2, "head"),
        ({}, 0, "too_early"),
        ({}, DAY + 10, "expired"),
    ],
)
def test_invalid_traffic_is_redirected_and_not_charged(
    start: Start, options: dict[str, Any], age_s: float, reason: str
) -> None:
    router = start("Try {A1}.")
    answer = router.ask()
    response = router.click(answer["ads"][0]["click_url"], age_s=age_s, **options)
    assert (response.status_code, "brand1.example" in response.headers["location"]) == (302, True)
    (event,) = events(router, answer["auction"]["auction_id"])
    assert (event["reason"], event["charged_micros"]) == (f"invalid:{reason}", 0)


def test_a_locked_ledger_delays_the_charge_but_not_the_redirect(start: Start) -> None:
    router = start("Try {A1}.")
    url = shown(router)["click_url"]
    router.wait_until_charged()
    lock = sqlite3.connect(router.settings.state_dir / "router.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    assert router.click(url).status_code == 302
    assert len(router.logged("clicks")) == 1  # on disk before the redirect
    lock.execute("ROLLBACK")
    lock.close()
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 100_000}


def test_click_links_use_the_public_address(start: Start) -> None:
    router = start("Try {A1}.", public_url="https://ads.example/")
    assert shown(router)["click_url"].startswith("https://ads.example/c/")


@pytest.mark.parametrize("host", ["evil.example/x) [", "a b", "x" * 300])
def test_a_malformed_host_header_cannot_break_out_of_a_link(start: Start, host: str) -> None:
    router = start("Try {A1}.")
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Good running shoes?"}]}
    response = httpx.post(f"{router.url}/v1/chat/completions", json=body, headers={"Host": host})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_no_personal_data_is_logged(start: Start) -> None:
    router = start("Try {A1}.")
    with structlog.testing.capture_logs() as logs:
        answer = router.ask(
            messages=[{"role": "user", "content": "my zanzibar running question"}],
            ads={
                "user_id": "a-particular-reader",
                "consent": True,
                "profile": {"location": "Timbuktu", "interests": ["xylophones"]},
            },
        )
        router.click(answer["ads"][0]["click_url"])
        router.post(messages=[{"role": "user", "content": "zanzibar " * 2_000}])
        router.wait_until_charged()
    assert {"answer.finalised", "ledger.charged"} <= {x["event"] for x in logs}
    token = answer["ads"][0]["click_url"].split("/c/")[1]
    for word in ("zanzibar", "a-particular-reader", "Timbuktu", "xylophones", token):
        assert word not in repr(logs)
