"""Frequency caps over HTTP: consent, an absent database, and answers that a client gets by asking again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from mechanism.markers import render_marker
from serving.database.schema import capped_impressions

Start = Callable[..., Any]
Until = Callable[..., None]


def book_kites(router: Any) -> None:
    """Book the ad kite-1, which a reader sees twice in a day at most."""
    creative = {"id": "kite-1", "title": "Falcon Kites", "text": "kites", "landing_url": "https://falcon.example/"}
    campaign = {"name": "Kites", "advertiser_id": "Falcon", "state": "active", "bid_micros": 1, "currency": "EUR"}
    caps = {"campaign_caps": [{"impressions": 2, "hours": 24}], "creatives": [creative]}
    assert router.call("POST", "/v1/campaigns", json=campaign | caps).status_code == 201
    router.call("POST", "/v1/creatives/kite-1/review", json={"review": "approved"})


def test_a_frequency_cap_holds_and_needs_consent(start: Start, wait_until: Until) -> None:
    router = start("Try {kite-1}.", ads=0)
    book_kites(router)

    def ask(**ads: Any) -> tuple[int, list[str]]:
        answer = router.ask(messages=[{"role": "user", "content": "kites?"}], ads=ads)
        record = router.get("/v1/auctions/" + answer["auction"]["auction_id"]).json()
        return len(answer["ads"]), [e["reason"] for e in record["exclusions"]]

    wait_until(lambda: ask(user_id="scout", consent=True)[0] == 1)
    seen = [ask(user_id="reader", consent=True) for _ in range(3)]
    assert seen == [(1, []), (1, []), (0, ["frequency_campaign"])]
    assert ask(user_id="reader", consent=False) == (0, ["consent_missing"])
    assert ask(consent=True) == (0, ["frequency_uncounted"])


def test_what_was_shown_while_the_database_was_away_counts_once_it_is_back(
    start: Start, wait_until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = start("Try {kite-1}.", ads=0)
    book_kites(router)
    lost = OperationalError("", {}, Exception())
    question = {"messages": [{"role": "user", "content": "kites?"}], "ads": {"user_id": "reader", "consent": True}}
    with structlog.testing.capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(router.router.marketplace.frequency, "settle", Mock(side_effect=lost))
        wait_until(lambda: len(router.ask(**question)["ads"]) == 1)
        shown = [len(event.shown) for event in router.logged("interactions")]
        assert counted(router) == []
    assert sum(shown) == 1
    assert [log["reason"] for log in logs if log["event"] == "answer.caps_not_settled"] == ["OperationalError"]
    assert not [log for log in logs if log["event"] == "answer.not_finalised"]
    wait_until(lambda: counted(router) == ["kite-1"])


def counted(router: Any) -> list[str]:
    """Return the ads that count against caps for as long as these say, not as reservations."""
    table = capped_impressions
    with router.router.database.read() as connection:
        return list(connection.execute(select(table.c.creative_id).where(table.c.reserved_until.is_(None))).scalars())


def test_a_cap_counts_the_ad_of_an_answer_that_its_client_gets_by_asking_again(start: Start, wait_until: Until) -> None:
    go = threading.Event()

    def script(context: Any) -> Any:
        yield "Wait. "
        go.wait(10)
        yield from (f"Try {render_marker(candidate.ad)}." for candidate in context.candidates)

    router = start(script=script, ads=0)
    book_kites(router)
    wait_until(lambda: len(router.router.marketplace.index) == 1)
    question = {"model": "scripted", "messages": [{"role": "user", "content": "kites?"}], "stream": True}
    question |= {"ads": {"user_id": "reader", "consent": True}}
    headers = {"Idempotency-Key": "k1", "Authorization": f"Bearer {router.admin}"}
    url = f"{router.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=question, headers=headers) as response:
        next(response.iter_lines())
    time.sleep(0.2)  # until the router knows that the client has gone
    go.set()
    (event,) = router.logged("interactions")
    assert event.shown == ()
    assert "Falcon Kites" in httpx.post(url, json=question, headers=headers, timeout=20).text
    wait_until(lambda: counted(router) == ["kite-1"])
