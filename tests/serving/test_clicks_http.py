"""Clicks over real HTTP: the bid is charged once, and no link leads anywhere but to the catalogue's page."""

from __future__ import annotations

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
from sqlalchemy import Engine, create_engine, text

from serving.tokens import Click, TokenSigner

Start = Callable[..., Any]


def shown(router: Any) -> dict[str, Any]:
    ad: dict[str, Any] = router.ask()["ads"][0]
    return ad


def test_a_click_redirects_and_charges_the_bid_once(start: Start) -> None:
    router = start("Try {A2}. Really, {A2}.")
    answer = router.ask()
    first, second = answer["ads"]  # one ad linked twice is one billable click
    for url in (first["click_url"], first["click_url"], second["click_url"]):
        response = httpx.get(url)
        assert (response.status_code, response.headers["location"]) == (302, "https://brand2.example/shop?x=1")
        assert response.headers["cache-control"] == "no-store"
    report = router.get("/v1/ledger").json()
    assert (report["revenue_micros"], report["clicks"]) == ({"EUR": 200_000}, 1)
    (charge,) = router.get(f"/v1/ledger?auction_id={answer['auction']['auction_id']}").json()["charges"]
    assert charge["click_id"] == answer["auction"]["auction_id"] + ":A2"
    assert (charge["amount_micros"], charge["currency"], charge["advertiser"]) == (200_000, "EUR", "Brand2")


def test_sixteen_clicks_at_once_are_one_charge(start: Start) -> None:
    router = start("Try {A3}.")
    url, gate = shown(router)["click_url"], threading.Barrier(16)

    def click(_: int) -> int:
        gate.wait()
        return httpx.get(url, timeout=20).status_code

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(click, range(16))) == {302}
    assert router.get("/v1/ledger").json()["revenue_micros"] == {"EUR": 300_000}


def test_the_price_is_the_bid_of_that_auction(start: Start) -> None:
    """The token carries it: a bid that changed since, or a restarted server, changes nothing for a shown ad."""
    router = start()
    click = Click("0190-auction", "A1", 55_555, "EUR", int(time.time()) + 60)
    assert router.get("/c/" + router.signer.sign(click)).status_code == 302
    assert router.get("/v1/ledger").json()["charges"][0]["amount_micros"] == 55_555


def test_expired_forged_and_withdrawn_links_lead_nowhere(start: Start) -> None:
    router = start()
    soon, past = int(time.time()) + 60, int(time.time()) - 1
    sign = router.signer.sign
    forged = TokenSigner(b"somebody else's secret, long enough too").sign(Click("a", "A1", 1, "EUR", soon))
    for token, status in (
        (sign(Click("a", "A1", 1, "EUR", past)), 410),
        (sign(Click("a", "withdrawn", 1, "EUR", soon)), 410),
        (forged, 404),
        ("https%3A%2F%2Fevil.example", 404),
        ("x" * 3_000, 404),
    ):
        response = router.get("/c/" + token)
        assert response.status_code == status
        assert "location" not in response.headers
    assert router.get("/c/https://evil.example").status_code == 404
    assert router.get("/v1/ledger").json()["clicks"] == 0


def test_no_altered_token_redirects(start: Start) -> None:
    router = start()
    token = router.signer.sign(Click("a", "A1", 1, "EUR", int(time.time()) + 600))
    with httpx.Client(base_url=router.url) as client:

        @settings(max_examples=40)
        @given(st.integers(0, len(token) - 1), st.sampled_from("Aa0-_."))
        def altered(at: int, character: str) -> None:
            changed = token[:at] + character + token[at + 1 :]
            response = client.get("/c/" + changed)
            assert response.status_code == (302 if changed == token else 404)

        altered()


@pytest.mark.parametrize("headers", [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, None])
def test_what_no_person_did_is_redirected_and_not_charged(start: Start, headers: dict[str, str] | None) -> None:
    router = start("Try {A1}.")
    url = shown(router)["click_url"]
    response = httpx.get(url, headers=headers) if headers else httpx.head(url)
    assert (response.status_code, "brand1.example" in response.headers["location"]) == (302, True)
    assert router.get("/v1/ledger").json()["clicks"] == 0


def test_a_ledger_that_cannot_be_written_keeps_nobody_from_the_page(start: Start) -> None:
    router = start("Try {A1}.")
    url = shown(router)["click_url"]
    database = create_engine(f"sqlite:///{router.settings.ledger_path}")
    rename(database, "accounts", "elsewhere")
    with structlog.testing.capture_logs() as logs:
        assert httpx.get(url, timeout=30).status_code == 302
    (failure,) = [x for x in logs if x["event"] == "charge failed"]
    assert failure["click_id"].endswith(":A1")
    rename(database, "elsewhere", "accounts")
    database.dispose()
    httpx.get(url)  # the same link charges once the ledger is back
    assert router.get("/v1/ledger").json()["clicks"] == 1


def rename(database: Engine, old: str, new: str) -> None:
    with database.begin() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


def test_the_ledger_report_names_a_bad_limit(start: Start) -> None:
    router = start()
    for limit in ("0", "-1", "many", "1001", "²"):
        error = router.get("/v1/ledger", params={"limit": limit})
        assert (error.status_code, error.json()["error"]["param"]) == (400, "limit")


def test_click_links_use_the_public_address(start: Start) -> None:
    router = start("Try {A1}.", public_url="https://ads.example/")
    assert shown(router)["click_url"].startswith("https://ads.example/c/")


def test_nothing_a_user_says_is_logged(start: Start) -> None:
    router = start("Try {A1}.")
    with structlog.testing.capture_logs() as logs:
        answer = router.ask(
            messages=[{"role": "user", "content": "my zanzibar question"}],
            ads={
                "user": "somebody-in-particular",
                "consent": True,
                "profile": {"location": "Timbuktu", "interests": ["xylophones"]},
            },
        )
        httpx.get(answer["ads"][0]["click_url"])
        router.post(messages=[{"role": "user", "content": "zanzibar " * 2_000}])
    assert {"answered", "charged"} <= {x["event"] for x in logs}
    token = answer["ads"][0]["click_url"].split("/c/")[1]
    for word in ("zanzibar", "somebody-in-particular", "Timbuktu", "xylophones", token):
        assert word not in repr(logs)
