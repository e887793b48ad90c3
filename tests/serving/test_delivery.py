"""Impressions are charged when the reader's socket took them, never when the client had gone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from mechanism.markers import render_marker
from mechanism.types import Context
from serving.answering.delivery import Delivery
from serving.campaigns.types import Pricing, ReviewState
from tests.serving.database.samples import campaign, creative

Start = Callable[..., Any]
FILLER = "Running shoes are a wide field, and much can be said about them at length. " * 20
PIECES = 60
"""Together far more than two sockets of a test hold."""
QUESTION = {"model": "scripted", "messages": [{"role": "user", "content": "Good running shoes?"}]}


def book(router: Any, pricing: Pricing) -> None:
    """Book the ad I1, which pays by impression or participation: 20,000 micros at the assumed rate of 0.02."""
    own = campaign(7, pricing=pricing, bid_micros=1_000_000, creatives=(creative("I1", title="Imprint Shoes"),))
    router.router.campaigns.create(own, datetime.now(UTC))
    router.router.campaigns.review("I1", ReviewState.APPROVED, datetime.now(UTC))


def marker(context: Context) -> str:
    return next(render_marker(candidate.ad) for candidate in context.candidates if candidate.ad.id == "I1")


def abandoned(router: Any, stream: bool, read: int = 0) -> None:
    """Ask, read a number of bytes, and close the connection while the rest is on its way."""
    body = json.dumps(QUESTION | {"stream": stream}).encode()
    where = urlsplit(router.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((where.hostname, where.port))
        client.sendall(head.encode() + body)
        client.recv(max(1, read))
        router.wait_for_text.wait(10)


@pytest.fixture
def selling(start: Start, wait_until: Callable[..., None]) -> Callable[..., Any]:
    """Return `selling(pricing, script)`: a router whose policy knows I1; `wait_for_text` is the script's event."""

    def make(pricing: Pricing, script: Callable[[Context, threading.Event], Iterator[str]]) -> Any:
        event = threading.Event()
        router = start(script=lambda context: script(context, event))
        book(router, pricing)
        wait_until(lambda: router.router.marketplace.index.get("c7") is not None)
        router.wait_for_text = event
        return router

    return make


def ad_at_the_end(context: Context, written: threading.Event) -> Iterator[str]:
    for _ in range(PIECES):
        yield FILLER
    yield f"Try {marker(context)}."
    written.set()


def ad_at_the_start(context: Context, seen: threading.Event) -> Iterator[str]:
    yield f"Try {marker(context)} first. Then "
    assert seen.wait(10)
    for _ in range(PIECES):
        yield FILLER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pricing", [Pricing.IMPRESSION, Pricing.PARTICIPATION])
def test_a_delivered_answer_is_charged(selling: Callable[..., Any], pricing: Pricing, stream: bool) -> None:
    router = selling(pricing, ad_at_the_end)
    assert "Imprint Shoes" in router.post(stream=stream).text
    router.wait_until_charged()
    charged = router.revenue()
    assert charged == ({"EUR": 20_000} if pricing is Pricing.IMPRESSION else charged)
    assert charged["EUR"] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pricing", [Pricing.IMPRESSION, Pricing.PARTICIPATION])
def test_an_answer_that_its_client_did_not_take_is_not_charged(
    selling: Callable[..., Any], pricing: Pricing, stream: bool
) -> None:
    router = selling(pricing, ad_at_the_end)
    abandoned(router, stream)
    (event,) = router.logged("interactions")
    assert (event.shown, event.participations) == ((), ())
    router.wait_until_charged()
    assert router.revenue() == {}


def test_an_ad_that_was_taken_before_the_client_left_is_charged(selling: Callable[..., Any]) -> None:
    router = selling(Pricing.IMPRESSION, ad_at_the_start)
    with httpx.stream("POST", f"{router.url}/v1/chat/completions", json=QUESTION | {"stream": True}) as response:
        for line in response.iter_lines():
            if '"ad":' in line:
                router.wait_for_text.set()
            if "Running shoes are" in line:
                break
    (event,) = router.logged("interactions")
    assert [ad.ad_id for ad in event.shown] == ["I1"]
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 20_000}


def test_an_ad_is_confirmed_by_the_next_write() -> None:
    delivery = Delivery()
    delivery.sent(["A1"])
    assert delivery.ads == frozenset()
    delivery.sent(["A2"])
    assert delivery.ads == {"A1"}
    delivery.gone = True
    delivery.sent(["A3"])
    delivery.drained()
    assert (delivery.ads, delivery.complete) == ({"A1"}, False)
