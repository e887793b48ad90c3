"""Advertisers' accounts over HTTP: no money, no ads; a payment brings them back, without waiting for the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from serving.campaigns.funds import Account
from serving.campaigns.types import Pacing, ReviewState
from serving.ledger.accrued import AccruedStore
from tests.serving.database.samples import campaign, creative

Start = Callable[..., Any]
BID = 500_000
TERMS = {"advertiser_id": "a1", "currency": "EUR", "credit_limit_micros": 0}
PAYMENT = {"advertiser_id": "a1", "currency": "EUR", "micros": 2 * BID - 1, "reference": "bank 1"}


def book(router: Any, name: str) -> None:
    """Book campaign c1 of a1 with the creative of this name, without a budget."""
    shoes = creative(name, title="Imprint Running Shoes")
    own = campaign(1, bid_micros=BID, pacing=Pacing.ASAP, creatives=(shoes,))
    router.router.campaigns.create(own, datetime.now(UTC))
    router.router.campaigns.review(name, ReviewState.APPROVED, datetime.now(UTC))


def offered(router: Any) -> bool:
    router.ask()
    return "I1" in {candidate.ad.id for candidate in router.policy.contexts[-1].candidates}


def reason(router: Any) -> str:
    record = router.call("GET", "/v1/auctions/" + router.ask()["auction"]["auction_id"]).json()
    return next((one["reason"] for one in record["exclusions"] if one["ad_id"] == "I1"), "")


@pytest.mark.parametrize("ledger", ["thread", "elsewhere"])
def test_an_advertiser_whose_money_is_used_up_is_not_offered(
    start: Start, wait_until: Callable[..., None], ledger: str
) -> None:
    """Also where no ledger books: the router counts the click itself."""
    router = start("Try {I1}.", ledger=ledger)
    assert router.call("PUT", "/v1/accounts", json=TERMS).json()["available_micros"] == 0
    book(router, "I1")
    wait_until(lambda: reason(router) == "funds")
    assert router.call("POST", "/v1/payments", json=PAYMENT).status_code == 201
    wait_until(lambda: offered(router))
    router.click(router.ask()["ads"][0]["click_url"])
    assert reason(router) == "funds"
    assert router.call("POST", "/v1/payments", json=PAYMENT).status_code == 200  # the same one again
    assert reason(router) == "funds"
    assert router.call("POST", "/v1/payments", json=PAYMENT | {"reference": "bank 2"}).status_code == 201
    wait_until(lambda: offered(router))


def test_what_other_routers_have_not_booked_counts_as_well(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.")
    router.call("PUT", "/v1/accounts", json=TERMS | {"credit_limit_micros": 3 * BID})
    book(router, "I1")
    wait_until(lambda: offered(router))
    other, key = AccruedStore(router.router.database, "other"), Account("a1", "EUR").key
    other.exchange({key: 2 * BID + 1}, datetime.now(UTC))
    wait_until(lambda: reason(router) == "funds")
    other.exchange({}, datetime.now(UTC))
    wait_until(lambda: offered(router))


def test_the_books_agree_when_the_ledger_has_caught_up(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.")
    router.call("PUT", "/v1/accounts", json=TERMS | {"credit_limit_micros": 3 * BID})
    book(router, "I1")
    wait_until(lambda: offered(router))
    router.click(router.ask()["ads"][0]["click_url"])
    router.wait_until_charged()
    market = router.router.marketplace
    wait_until(lambda: market.accrual.charged("EUR a1") == 0, 20)
    own = router.key("advertiser", "a1")
    (account,) = router.call("GET", "/v1/accounts", own).json()["items"]
    assert (account["charged_micros"], account["available_micros"]) == (BID, 2 * BID)
    assert offered(router)


def test_a_statement_is_read_as_json_and_csv(shared: Any) -> None:
    for name in ("s1", "s2"):
        shared.call("POST", "/v1/payments", json=PAYMENT | {"advertiser_id": name})
    own, month = shared.key("advertiser", "s1"), f"{datetime.now(UTC):%Y-%m}"
    (line,) = shared.call("GET", f"/v1/statements?month={month}", own).json()["lines"]
    expected = {"opening_micros": 0, "payments_micros": 2 * BID - 1, "closing_micros": 2 * BID - 1, "final": False}
    assert {name: line[name] for name in expected} == expected
    csv = shared.call("GET", f"/v1/statements?month={month}&format=csv&advertiser_id=s2")
    assert csv.headers["content-disposition"].endswith(f'"statements-{month}.csv"')
    assert csv.text.splitlines()[1] == f'"s2","EUR","{month}",0,{2 * BID - 1},0,0,{2 * BID - 1},"false"'
    assert shared.call("GET", "/v1/statements?advertiser_id=s2", own).status_code == 403
    assert shared.call("GET", "/v1/statements?month=2026-13").json()["error"]["param"] == "month"


def test_advertisers_read_their_own_and_change_nothing(shared: Any) -> None:
    for name in ("a1", "other"):
        shared.call("PUT", "/v1/accounts", json=TERMS | {"advertiser_id": name})
        shared.call("POST", "/v1/payments", json=PAYMENT | {"advertiser_id": name})
    own = shared.key("advertiser", "a1")
    for path in ("/v1/accounts", "/v1/payments"):
        items = shared.call("GET", path, own).json()["items"]
        assert {item["advertiser_id"] for item in items} == {"a1"}
        assert shared.call("GET", f"{path}?advertiser_id=other", own).status_code == 403
        assert shared.call("GET", f"{path}?advertiser_id=other").json()["items"][0]["advertiser_id"] == "other"
        assert shared.call("GET", path, shared.key("publisher")).status_code == 403
    assert shared.call("PUT", "/v1/accounts", own, json=TERMS).status_code == 403
    assert shared.call("POST", "/v1/payments", own, json=PAYMENT).status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/accounts", TERMS | {"credit_limit_micros": -1}, "credit_limit_micros"),
        ("/v1/accounts", {"advertiser_id": "a1", "currency": "EUR"}, "credit_limit_micros"),
        ("/v1/accounts", TERMS | {"currency": "euro"}, "currency"),
        ("/v1/payments", PAYMENT | {"micros": 0}, "micros"),
        ("/v1/payments", PAYMENT | {"reference": ""}, "reference"),
        ("/v1/payments", PAYMENT | {"reference": "bank 1", "micros": 1}, "reference"),
    ],
)
def test_wrong_input_is_named(shared: Any, path: str, body: dict[str, Any], field: str) -> None:
    shared.call("POST", "/v1/payments", json=PAYMENT)
    refused = shared.call("PUT" if path == "/v1/accounts" else "POST", path, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
